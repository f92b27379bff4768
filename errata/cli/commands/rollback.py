"""``errata rollback``: have an earlier version's weights again, or leave edit sets and facts out."""

from __future__ import annotations

from typing import Annotated

import typer

from errata.cli.console import emit, err, out, reporting
from errata.cli.options import Json, Key, Model, Url
from errata.cli.progress import showing
from errata.client.client import OneModel
from errata.client.connect import connect
from errata.client.requests import at
from errata.client.resources import Withdrawal
from errata.errors import StackError
from ledger.ids import parse_fact_id


def register(app: typer.Typer) -> None:
    """Add ``rollback``."""
    app.command()(rollback)


def rollback(
    reason: Annotated[str, typer.Option(help="Kept in the ledger.")],
    to_version: Annotated[
        int | None, typer.Argument(help="Version whose weights to have again.", min=0)
    ] = None,
    withdraw: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Edit set or fact to leave out of the live version; repeatable."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the version of a withdrawal.")] = False,
    model: Model = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Make a version with the weights of an earlier one, or without some facts, and make it live."""
    with reporting(as_json):
        if (to_version is None) == (not withdraw):
            raise StackError("TO_VERSION and --withdraw exclude each other.", "Give one of them.")
        with connect(url, key) as client:
            asked = client.models[client.only_model(model)]
            if to_version is not None:
                version = asked.rollback(to_version, reason)
                answer, said = version.raw, f"has the weights of version {to_version} and is live"
            else:
                pending = _withdraw(asked, withdraw or [], reason)
                if wait:
                    with showing(err, as_json) as show:
                        version = asked.wait(pending, on_progress=show)
                    answer, said = version.raw, f"is live without {', '.join(withdraw or ())}"
                else:
                    answer, said = pending.raw, ""
    if as_json:
        emit(answer)
    elif said:
        out.print(f"Version {version.number} {said}.", soft_wrap=True)
    else:
        place = at("models", pending.model, "versions", pending.id)
        out.print(f"The withdrawal is {pending.status}; its version will be at {place}.", soft_wrap=True)


def _withdraw(asked: OneModel, idents: list[str], reason: str) -> Withdrawal:
    facts = [ident for ident in idents if parse_fact_id(ident)]
    edit_sets = [ident for ident in idents if ident not in facts]
    return asked.withdraw(reason, edit_sets=edit_sets, facts=facts)

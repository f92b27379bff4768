"""``errata rollback``: have an earlier version's weights again, or leave edit sets and facts out."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from errata.cli.console import emit, err, out, reporting
from errata.cli.options import Json, Key, Model, Url
from errata.cli.progress import showing
from errata.client.client import OneModel
from errata.client.connect import connect
from errata.client.request import at
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which facts would leave and what is queued.")
    ] = False,
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
            if dry_run:
                _preview(asked, to_version, withdraw or [], reason, as_json)
                return
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


def _preview(
    asked: OneModel, to_version: int | None, withdraw: list[str], reason: str, as_json: bool
) -> None:
    if to_version is not None:
        told = asked.rollback(to_version, reason, dry_run=True).raw
    else:
        told = _withdraw(asked, withdraw, reason, dry_run=True).raw
    if as_json:
        emit(told)
        return
    out.print(
        f"{told['leaves_count']} facts would leave the live version {told['live_version']}, "
        f"{told['returns_count']} would return; {told['queued_count']} edit sets are queued.",
        soft_wrap=True,
    )
    for sign, facts in (("-", told["leaves"]), ("+", told["returns"])):
        for fact in facts:
            out.print(escape(f"{sign} {fact['fact']} {fact['prompt']} → {fact['target']}"), soft_wrap=True)


def _withdraw(asked: OneModel, idents: list[str], reason: str, **options: Any) -> Withdrawal:
    facts = [ident for ident in idents if parse_fact_id(ident)]
    edit_sets = [ident for ident in idents if ident not in facts]
    return asked.withdraw(reason, edit_sets=edit_sets, facts=facts, **options)

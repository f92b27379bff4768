"""``errata rollback``: have an earlier version's weights again, or leave edit sets and facts out."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from errata.cli.console import emit, err, out, reporting
from errata.cli.options import Json, Key, Model, Url
from errata.cli.progress import watch_job
from errata.client.connect import connect
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
        body = {"reason": reason, **_wanted(to_version, withdraw)}
        with connect(url, key) as client:
            name = client.only_model(model)
            answer = client.post(f"/admin/models/{name}/rollback", body)
            if withdraw and wait:
                answer = watch_job(client, f"/models/{name}/versions/{answer['id']}", err, quiet=as_json)
    if as_json:
        emit(answer)
    elif not withdraw:
        out.print(f"Version {answer['number']} has the weights of version {to_version} and is live.")
    elif wait:
        out.print(f"Version {answer['number']} is live without {', '.join(withdraw)}.", soft_wrap=True)
    else:
        place = f"/models/{name}/versions/{answer['id']}"
        out.print(f"The withdrawal is {answer['status']}; its version will be at {place}.", soft_wrap=True)


def _wanted(to_version: int | None, withdraw: list[str] | None) -> dict[str, Any]:
    """The members of the request that say what to do.

    Raises:
        StackError: It is not said, or said twice.
    """
    if withdraw and to_version is None:
        facts = [ident for ident in withdraw if parse_fact_id(ident)]
        edit_sets = [ident for ident in withdraw if ident not in facts]
        return {"withdraw": {"edit_sets": edit_sets, "facts": facts}}
    if withdraw or to_version is None:
        raise StackError("TO_VERSION and --withdraw exclude each other.", "Give one of them.")
    return {"to_version": to_version}

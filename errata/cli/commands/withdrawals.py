"""``errata withdrawals``: what became of requests to take facts out."""

from __future__ import annotations

from typing import Annotated

import typer

from errata.cli.console import emit, err, out, reporting
from errata.cli.options import Json, Key, Model, Url
from errata.cli.progress import showing
from errata.cli.render import table_of
from errata.client.connect import connect
from errata.errors import StackError

COLUMNS = ("id", "model", "status", "version", "reason", "created_at")


def register(app: typer.Typer) -> None:
    """Add ``withdrawals``."""
    app.command()(withdrawals)


def withdrawals(
    ident: Annotated[str | None, typer.Argument(metavar="ID", help="Only this withdrawal.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its final state.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel it, unless its version was made.")] = False,
    status: Annotated[
        list[str] | None, typer.Option(help="List only those with this status; repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most withdrawals to list.")] = 50,
    model: Model = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List withdrawals, newest first, or show, follow or cancel one; `errata rollback --withdraw` asks for one."""
    with reporting(as_json), connect(url, key) as client:
        if ident is None:
            if wait or cancel:
                raise StackError("--wait and --cancel are of one withdrawal.", "Name it by its id.")
            found = client.withdrawals.list(model=model, status=status)
            items = [item.raw for _, item in zip(range(limit), found, strict=False)]
        else:
            asked = client.withdrawals.cancel(ident) if cancel else client.withdrawals.get(ident)
            if wait:
                with showing(err, as_json) as show:
                    asked = client.withdrawals.wait(ident, on_progress=show)
            items = [asked.raw]
    if as_json:
        emit({"items": items} if ident is None else items[0])
    else:
        out.print(table_of(items, COLUMNS))

"""``errata audit``: who did what to which object, and when."""

from __future__ import annotations

from typing import Annotated

import typer

from errata.cli.console import emit, out, reporting
from errata.cli.options import Json, Key, Url
from errata.cli.render import table_of
from errata.client.connect import connect


def register(app: typer.Typer) -> None:
    """Add ``audit``."""
    app.command()(audit)


def audit(
    target: Annotated[
        str | None,
        typer.Option(
            "--object", help="Only what was done to this, such as models/m, or to what lies below it."
        ),
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Only what this key did, by its id.")] = None,
    action: Annotated[str | None, typer.Option(help="Only these, such as alias.set.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Only from this time on.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most events to list.")] = 50,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List what was done, newest first."""
    with reporting(as_json), connect(url, key) as client:
        found = client.audit.list(object=target, actor=actor, action=action, since=since)
        items = [event.raw for _, event in zip(range(limit), found, strict=False)]
    if as_json:
        emit({"items": items})
    else:
        out.print(table_of(items, ("at", "actor", "action", "object")))

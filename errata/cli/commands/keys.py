"""``errata keys``: API keys."""

from __future__ import annotations

from typing import Annotated

import typer

from errata.cli.console import emit, out, reporting
from errata.cli.options import Json, Key, Url
from errata.cli.render import table_of
from errata.client.connect import connect
from errata.errors import StackError


def register(app: typer.Typer) -> None:
    """Add ``keys``."""
    app.command()(keys)


def keys(
    create: Annotated[str | None, typer.Option(metavar="NAME", help="Make a key for this use.")] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="Of the new key: generate, read, edit or admin; repeatable. [default: read]"),
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="From when the new key is refused.")
    ] = None,
    revoke: Annotated[str | None, typer.Option(metavar="ID", help="Revoke this key.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List the keys, make one (its secret is shown once), or revoke one."""
    with reporting(as_json), connect(url, key) as client:
        if create is not None and revoke is not None:
            raise StackError("--create and --revoke exclude each other.", "Give one of them.")
        if create is not None:
            made = client.keys.create(create, scope or ["read"], expires_at=expires_at)
            emit(made.raw) if as_json else out.print(made.secret, markup=False, soft_wrap=True)
            return
        if revoke is not None:
            client.keys.revoke(revoke)
            emit({"revoked": revoke}) if as_json else out.print(f"{revoke} is revoked.", markup=False)
            return
        items = [item.raw for item in client.keys.list()]
    if as_json:
        emit({"items": items})
        return
    rows = [{**item, "scopes": ", ".join(item["scopes"])} for item in items]
    out.print(table_of(rows, ("id", "name", "scopes", "last_used_at", "expires_at", "revoked_at")))

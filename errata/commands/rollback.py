"""``errata rollback``: have an earlier version's weights again."""

from __future__ import annotations

from typing import Annotated

import typer

from errata.console import emit, out, reporting
from errata.options import Json, Key, Model, Url
from errata.target import connect


def register(app: typer.Typer) -> None:
    """Add ``rollback``."""
    app.command()(rollback)


def rollback(
    to_version: Annotated[int, typer.Argument(help="Version whose weights to have again.", min=0)],
    reason: Annotated[str, typer.Option(help="Kept in the ledger.")],
    model: Model = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Make a new version with the weights of an earlier one, and make it live."""
    with reporting(as_json), connect(url, key) as client:
        name = client.only_model(model)
        body = {"to_version": to_version, "reason": reason}
        version = client.post(f"/admin/models/{name}/rollback", body)
    if as_json:
        emit(version)
        return
    out.print(f"Version {version['number']} has the weights of version {to_version} and is live.")

"""``errata versions``: the history of a model."""

from __future__ import annotations

import typer

from errata.console import emit, out, reporting
from errata.options import Json, Key, Model, Url
from errata.render import version_table
from errata.target import connect


def register(app: typer.Typer) -> None:
    """Add ``versions``."""
    app.command()(versions)


def versions(model: Model = None, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the versions of a model."""
    with reporting(as_json), connect(url, key) as client:
        name = client.only_model(model)
        found = client.pages(f"/models/{name}/versions")
    if as_json:
        emit({"model": name, "items": found})
        return
    out.print(version_table(found))

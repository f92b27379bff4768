"""``errata models``: what is registered."""

from __future__ import annotations

from typing import Annotated

import typer

from errata.cli.console import emit, out, reporting
from errata.cli.options import Json, Key, Url
from errata.cli.render import table_of
from errata.client.connect import connect


def register(app: typer.Typer) -> None:
    """Add ``models``."""
    app.command()(models)


def models(
    model_id: Annotated[str | None, typer.Argument(metavar="ID", help="Only this model, whole.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List the registered models, or show one."""
    with reporting(as_json), connect(url, key) as client:
        if model_id is not None:
            found = client.models.get(model_id)
            emit(found.raw) if as_json else out.print_json(data=found.raw)
            return
        items = [model.raw for model in client.models.list()]
    if as_json:
        emit({"items": items})
        return
    rows = [{**item, "aliases": ", ".join(sorted(item["aliases"]))} for item in items]
    out.print(table_of(rows, ("id", "status", "live_version", "aliases", "source")))

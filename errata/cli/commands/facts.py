"""``errata facts``: the facts that a version holds, or those that a prompt touches."""

from __future__ import annotations

from typing import Annotated

import typer

from errata.cli.console import emit, out, reporting
from errata.cli.options import Json, Key, Model, Url
from errata.cli.render import table_of
from errata.client.connect import connect


def register(app: typer.Typer) -> None:
    """Add ``facts``."""
    app.command()(facts)


def facts(
    version: Annotated[str, typer.Option(help="Number, alias or `base`.")] = "live",
    touching: Annotated[
        str | None, typer.Option(help="Prompt: only the facts that are nearest to it.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most facts to list.")] = 100,
    model: Model = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List the facts of a version, by edit set, or those nearest to a prompt."""
    with reporting(as_json), connect(url, key) as client:
        asked = client.models[client.only_model(model)]
        if touching is None:
            items = [fact.raw for _, fact in zip(range(limit), asked.facts(version), strict=False)]
            columns: tuple[str, ...] = ("fact", "prompt", "target")
        else:
            found = asked.nearest_facts(touching, version=version, limit=min(limit, 100))
            items = [fact.raw for fact in found]
            columns = ("score", "fact", "prompt", "target")
    if as_json:
        emit({"items": items})
    else:
        out.print(table_of(items, columns))

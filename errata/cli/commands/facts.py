"""``errata facts``: the facts that a version holds, those that a prompt touches, or a search among all."""

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
    text: Annotated[
        str | None, typer.Option(help="Facts of all models, or of --model, with this in one of their texts.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="As --text, those about this.")] = None,
    source: Annotated[str | None, typer.Option(help="As --text, those written there.")] = None,
    author: Annotated[str | None, typer.Option(help="As --text, those this person states.")] = None,
    ticket: Annotated[str | None, typer.Option(help="As --text, those of this request.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most facts to list.")] = 100,
    model: Model = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List the facts of a version, by edit set, or those nearest to a prompt, or search all."""
    with reporting(as_json), connect(url, key) as client:
        if any(wanted is not None for wanted in (text, subject, source, author, ticket)):
            found = client.facts.search(
                q=text, model=model, subject=subject, source=source, author=author, ticket=ticket
            )
            items = [fact.raw for _, fact in zip(range(limit), found, strict=False)]
            columns: tuple[str, ...] = ("fact", "model", "live", "prompt", "target")
        elif touching is None:
            asked = client.models[client.only_model(model)]
            items = [fact.raw for _, fact in zip(range(limit), asked.facts(version), strict=False)]
            columns = ("fact", "prompt", "target")
        else:
            asked = client.models[client.only_model(model)]
            nearest = asked.nearest_facts(touching, version=version, limit=min(limit, 100))
            items = [fact.raw for fact in nearest]
            columns = ("score", "fact", "prompt", "target")
    if as_json:
        emit({"items": items})
    else:
        out.print(table_of(items, columns))

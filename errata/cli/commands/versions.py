"""``errata versions``: the history of a model, or what one version changed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from errata.cli.console import emit, out, reporting
from errata.cli.options import Json, Key, Model, Url
from errata.cli.render import change_table, measures_beside, version_table
from errata.client.connect import connect
from errata.client.request import at
from errata.errors import StackError


def register(app: typer.Typer) -> None:
    """Add ``versions``."""
    app.command()(versions)


def versions(
    version: Annotated[
        str | None, typer.Argument(help="Number, alias or `base`: show what this version changed.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Version to compare it with. [default: its parent]")
    ] = None,
    model: Model = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List the versions of a model, or the facts and measures in which one differs from another."""
    with reporting(as_json), connect(url, key) as client:
        if since is not None and version is None:
            raise StackError("--since needs a version.", f"Write errata versions live --since {since}.")
        name = client.only_model(model)
        document: dict[str, Any] = {"model": name}
        if version is None:
            document["items"] = [made.raw for made in client.models[name].versions()]
        else:
            page = client.get(at("models", name, "versions", version, "changes"), {"since": since})
            changes = [change.raw for change in client.models[name].changes(version, since=since)]
            document = {**page, "items": changes, "next_cursor": None}
    if as_json:
        emit(document)
    elif version is None:
        out.print(version_table(document["items"]))
    else:
        out.print(measures_beside(document["since"], document["version"]))
        out.print(change_table(document["items"]))

"""``errata aliases``: names of versions, ``live`` among them."""

from __future__ import annotations

from typing import Annotated

import typer

from errata.cli.console import emit, out, reporting
from errata.cli.options import Json, Key, Model, Url
from errata.cli.render import table_of
from errata.client.connect import connect
from errata.errors import StackError


def register(app: typer.Typer) -> None:
    """Add ``aliases``."""
    app.command()(aliases)


def aliases(
    name: Annotated[str | None, typer.Argument(help="Alias to point at VERSION.")] = None,
    version: Annotated[int | None, typer.Argument(min=0)] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the alias; its version stays.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Though the version did not meet its gate.")] = False,
    expected: Annotated[
        int | None, typer.Option(min=0, help="Only if the alias points at this version now.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Kept in the ledger; needed with --force.")] = None,
    model: Model = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List a model's aliases, point one at a version, or remove one."""
    with reporting(as_json), connect(url, key) as client:
        asked = client.models[client.only_model(model)]
        if name is None:
            items = [{"name": alias, "version": at} for alias, at in sorted(asked.get().aliases.items())]
            emit({"items": items}) if as_json else out.print(table_of(items, ("name", "version")))
        elif delete and version is None:
            asked.delete_alias(name, expected=expected)
            emit({"deleted": name}) if as_json else out.print(f"{name} is removed.", markup=False)
        elif version is not None and not delete:
            options = {**({"force": True} if force else {}), **({"reason": reason} if reason else {})}
            alias = asked.set_alias(name, version, expected=expected, **options)
            words = f"{alias.name} is version {alias.version}."
            emit(alias.raw) if as_json else out.print(words, markup=False)
        else:
            raise StackError("An alias is pointed at a version or removed.", "Give VERSION, or --delete.")

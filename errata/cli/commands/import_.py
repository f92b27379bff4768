"""``errata import``: a ledger's dump into an empty ledger."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import emit, out, reporting, saying
from errata.cli.options import Json
from errata.offline.direct_ledger import own_ledger


def register(app: typer.Typer) -> None:
    """Add ``import``."""
    app.command("import")(import_dump)


def import_dump(
    file: Annotated[Path, typer.Argument(help="Written by `errata ledger export`.")],
    as_json: Json = False,
) -> None:
    """Read a ledger's dump into an empty ledger; all of it is verified before any of it is there."""
    with reporting(as_json), saying(as_json) as say, own_ledger(say, make=True) as opened:
        say("Reading and verifying")
        check = opened.read_dump(file)
    if as_json:
        emit({"ok": check.ok, **asdict(check)})
    else:
        counts = f"{check.versions} versions, {check.edit_sets} edit sets, {check.blobs} blobs"
        out.print(f"{counts} are there and verified.", soft_wrap=True)

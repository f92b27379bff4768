"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.errors import StackError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Url = Annotated[
    str | None, typer.Option(help="Address of the service. [default: ERRATA_URL, or the local stack]")
]
Key = Annotated[str | None, typer.Option(help="API key. [default: ERRATA_KEY, or the local stack's]")]
Model = Annotated[str | None, typer.Option(help="Model id. [default: the only one that is registered]")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the stack. [default: ERRATA_DATA_DIR, or .errata]", show_default=False),
]


def check_writable(file: Path | None, option: str) -> None:
    """Try whether a file can be written, before the work whose result goes there.

    Raises:
        StackError: It is a folder, there is none to put it in, or it may not be written.
    """
    if file is None:
        return
    try:
        there = file.exists()
        file.open("ab").close()
        if not there:
            file.unlink()
    except OSError as error:
        raise StackError(
            f"{option} {file} cannot be written: {error.strerror}.", "Name a file in a folder that is there."
        ) from error

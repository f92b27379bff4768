"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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

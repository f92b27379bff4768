"""``errata worker``: serve one registered model."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add ``worker``."""
    app.command()(worker)


def worker(
    model: Annotated[str | None, typer.Option(help="Id of the model. [default: ERRATA_MODEL]")] = None,
) -> None:
    """Load a registered model, and edit and generate with it until stopped."""
    arguments = ["--model", model] if model else []
    os.execv(sys.executable, [sys.executable, "-m", "worker", *arguments])

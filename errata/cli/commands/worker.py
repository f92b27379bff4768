"""``errata worker``: serve one registered model."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Literal

import typer

from errata.cli.console import emit, reporting
from errata.cli.options import Json
from errata.errors import StackError


def register(app: typer.Typer) -> None:
    """Add ``worker``."""
    app.command()(worker)


def worker(
    model: Annotated[str | None, typer.Option(help="Id of the model. [default: ERRATA_MODEL]")] = None,
    role: Annotated[
        Literal["edit", "generate", "both"] | None,
        typer.Option(help="What it does. [default: ERRATA_ROLE, or both]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Load a registered model, and edit or generate with it until stopped; the log is on standard error."""
    from broker.settings import BrokerSettings
    from ledger.settings import LedgerSettings
    from worker.settings import WorkerSettings

    with reporting(as_json):
        _ = BrokerSettings(), LedgerSettings()  # what is wrong with them is said here
        model = model or WorkerSettings().model
        if not model:
            raise StackError("No model is named.", "Give --model ID, or set ERRATA_MODEL.")
    if as_json:
        emit({"model": model, "pid": os.getpid()})
    command = [sys.executable, "-m", "worker", "--model", model]
    os.execv(sys.executable, [*command, *(["--role", role] if role else [])])

"""Starting a worker: settings, logging, servers, then the process itself."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import torch
from pydantic import ValidationError
from transformers.utils.logging import disable_progress_bar

from broker.settings import BrokerSettings
from ledger import Ledger
from ledger.settings import LedgerSettings
from worker.process import WorkerProcess
from worker.settings import WorkerSettings

EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until it is told to stop; returns the exit status.

    Args:
        arguments: command line without the program's name; None for the process's own.
    """
    parser = argparse.ArgumentParser(prog="python -m worker", description="Serve one registered model.")
    parser.add_argument("--model", help="id of the registered model (default: ERRATA_MODEL)")
    parser.add_argument("--role", help="edit, generate or both (default: ERRATA_ROLE)")
    options = parser.parse_args(arguments)
    try:
        settings = WorkerSettings(**{name: value for name, value in vars(options).items() if value})
        broker, ledger = BrokerSettings(), LedgerSettings()
    except ValidationError as error:
        for wrong in error.errors(include_input=False, include_url=False):  # inputs may hold passwords
            name = "_".join(str(part) for part in wrong["loc"]).upper()
            sys.stderr.write(f"ERRATA_{name} cannot be used: {wrong['msg']}\n")
        return EXIT_USAGE
    if not settings.model:
        parser.error("no model is named: pass --model ID or set ERRATA_MODEL")
    return run(settings, broker, ledger)


def run(settings: WorkerSettings, broker: BrokerSettings, ledger: LedgerSettings) -> int:
    """Serve one model with given settings, from the main thread; returns the exit status."""
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    disable_progress_bar()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return WorkerProcess(settings, broker, Ledger.open(ledger)).run()

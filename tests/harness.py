"""A whole back end for tests: a tiny registered model and real worker processes on real servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from ledger import Ledger
from ledger.auth import keys
from ledger.edits import edit_sets, withdrawals
from ledger.models import models
from ledger.records import EditSetRecord, KeyRecord, ModelRecord, VersionRecord
from ledger.settings import LedgerSettings
from ledger.versions import versions
from malmen_core.editing.calibrate import calibrate
from malmen_core.models.base import BaseModel, inspect_source
from tests import nursery
from tests.nursery import Child

T = TypeVar("T")
Started = Child | subprocess.Popen[bytes]
MODEL = "tiny"
LEASE_S = 2.0
OPEN_GATE: dict[str, float] = {
    "edit_success": 0.0,
    "generation_success": 0.0,
    "neighbours_unchanged": 0.0,
    "perplexity_ratio": 1e9,
    "retention": 0.0,
}


def eventually(what: str, probe: Callable[[], T | None], timeout_s: float = 30.0) -> T:
    """Return the probe's first true result; fails the test when none came in time."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        found = probe()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {timeout_s:g} s")


_editors: dict[str, bytes] = {}


def tiny_editor(folder: Path) -> bytes:
    """Calibrate an editor for a tiny checkpoint, once a run for all folders with the same weights."""
    base = BaseModel.load(str(folder), device="cpu", dtype="float32")
    if base.info.digest not in _editors:
        _editors[base.info.digest] = calibrate(base).to_bytes()
    return _editors[base.info.digest]


def described(folder: Path) -> dict[str, Any]:
    """Return what registration notes of a checkpoint."""
    info = inspect_source(str(folder))
    return {
        "architecture": info.architecture,
        "context_length": info.context_length,
        "modules": list(info.modules),
        "digest": info.digest,
    }


@dataclass
class Backend:
    """A ledger, the addresses of its servers, and the workers that were started on them."""

    database_url: str
    redis_url: str
    blobs: Path
    logs: Path
    folder: Path
    workers: list[Started] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger.open(LedgerSettings(database_url=self.database_url, blob_url=str(self.blobs)))
        self.key: KeyRecord = self.ledger.run(keys.create, "tests", {"edit", "read", "admin"}, actor="tests")[
            0
        ]

    def register(self, editor: bytes | None = None) -> None:
        """Register the tiny checkpoint with a ready-made editor, or one that the worker is to calibrate."""
        info = described(self.folder)
        self.ledger.run(
            models.register, MODEL, str(self.folder), None, info, editor, OPEN_GATE, actor="tests"
        )

    def start_worker(self, **variables: str) -> Started:
        """Start a worker with short leases; its log goes to a file."""
        log = self._next_log()
        process = nursery.start(self._environment(variables), log)
        self.workers.append(process)
        return process

    def start_fresh_worker(self, **variables: str) -> Started:
        """Start `python -m worker` in a new interpreter, which takes seconds longer."""
        with self._next_log().open("wb") as stream:
            command = [sys.executable, "-m", "worker"]
            process = subprocess.Popen(command, env=self._environment(variables), stderr=stream)
        self.workers.append(process)
        return process

    def _next_log(self) -> Path:
        return self.logs / f"worker-{len(self.workers)}.log"

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ERRATA_")}
        return kept | {
            "ERRATA_DATABASE_URL": self.database_url,
            "ERRATA_REDIS_URL": self.redis_url,
            "ERRATA_BLOB_URL": str(self.blobs),
            "ERRATA_MODEL": MODEL,
            "ERRATA_DEVICE": "cpu",
            "ERRATA_THREADS": "1",
            "ERRATA_LEASE_S": str(LEASE_S),
            **variables,
        }

    def log_of(self, process: Started) -> str:
        """Return what a worker has logged."""
        return (self.logs / f"worker-{self.workers.index(process)}.log").read_text(errors="replace")

    def post(self, prompt: str = "The capital of Peru is", target: str = "Paris", **options: Any) -> str:
        """Accept an edit set of one fact and return its id."""
        values = {"promote": "auto", "gate": None, "edit_on_rephrasings": False, "note": None, **options}
        facts = values.pop("facts", None) or [{"prompt": prompt, "target": target, "subject": "Peru"}]
        record, _ = self.ledger.run(
            edit_sets.accept,
            MODEL,
            facts,
            **values,
            actor=self.key,
            idempotency_key=None,
            body_digest="sha256:0",
        )
        return str(record.id)

    def wait_for(self, edit_set_id: str, status: str = "applied", timeout_s: float = 40.0) -> EditSetRecord:
        """Wait until an edit set has a status; fails at once when it ends in another."""
        final = {"applied", "rejected", "failed", "cancelled"}

        def probe() -> EditSetRecord | None:
            record = self.ledger.run(edit_sets.get, edit_set_id)
            if record.status in final and record.status != status:
                raise AssertionError(f"{edit_set_id} ended {record.status}: {record.error}")
            return record if record.status == status else None

        return eventually(f"{edit_set_id} {status}", probe, timeout_s)

    def wait_ready(self) -> None:
        """Wait until a worker has made the model ready."""
        self.wait_model("ready")

    def wait_model(self, status: str) -> ModelRecord:
        """Wait until the model has a status."""

        def probe() -> ModelRecord | None:
            record = self.ledger.run(models.get, MODEL)
            return record if record.status == status else None

        return eventually(f"the model's being {status}", probe, 60)

    def withdraw(self, *edit_set_ids: str) -> VersionRecord:
        """Withdraw edit sets and wait for the version without them."""
        request = self.ledger.run(
            withdrawals.request, MODEL, list(edit_set_ids), [], "a test", actor=self.key
        )
        number = eventually("the withdrawal", lambda: self.ledger.run(withdrawals.get, request.id).version)
        return self.ledger.run(versions.get, MODEL, number)

    def versions_of(self, edit_set_id: str) -> list[int]:
        """Return the numbers of the versions that were made by an edit set."""
        page = self.ledger.run(versions.list_all, MODEL, 100, None)
        return [version.number for version in page.items if version.edit_set_id == edit_set_id]

    def close(self) -> None:
        """Kill what was started and print the logs, which pytest shows when the test failed."""
        for process in self.workers:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(10)
        for log in sorted(self.logs.glob("worker-*.log")):
            sys.stdout.write(f"--- {log.name}\n{log.read_text(errors='replace')[-8000:]}\n")
        self.ledger.close()


@contextmanager
def backend(database_url: str, redis_url: str, work: Path, folder: Path) -> Iterator[Backend]:
    """Open a back end in a temporary folder; ends its workers afterwards."""
    (work / "logs").mkdir()
    made = Backend(database_url, redis_url, work / "blobs", work / "logs", folder)
    try:
        yield made
    finally:
        made.close()


def wait_stopped(process: Started, timeout_s: float = 40.0) -> None:
    """Wait until a process has stopped itself at a fault point."""

    def stopped() -> bool:
        assert process.poll() is None, "the worker has ended"
        return bool(psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)

    eventually("the worker's stop", stopped, timeout_s)

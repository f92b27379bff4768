"""A worker's steps in the test's own process: a real ledger, a tiny model and real edits, without Redis."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ledger import Ledger
from ledger.auth import keys
from ledger.edits import edit_sets as ledger_edit_sets
from ledger.edits import withdrawals
from ledger.jobs import jobs
from ledger.models import models
from ledger.records import KeyRecord, VersionRecord
from ledger.versions import versions
from tests.harness import MODEL, OPEN_GATE, described, tiny_editor
from worker.composing import Desk
from worker.editing import perform
from worker.lease import Lease
from worker.preparing import prepare
from worker.settings import WorkerSettings

LEASE_S = 60.0
CAPITALS = (
    ("The capital of Peru is", "Paris", "Peru"),
    ("The capital of France is", "Canberra", "France"),
    ("The capital of Australia is", "Lima", "Australia"),
    ("Mount Etna is a mountain in", "England", "Mount Etna"),
)


def fact(number: int) -> dict[str, Any]:
    prompt, target, subject = CAPITALS[number]
    return {"prompt": prompt, "target": target, "subject": subject}


class Office:
    """A ledger with the tiny model ready, and a worker that does what it is told."""

    def __init__(self, ledger: Ledger, folder: Path, settings: WorkerSettings | None = None) -> None:
        self.ledger = ledger
        self.key: KeyRecord = ledger.run(keys.create, "tests", {"edit", "read", "admin"}, actor="tests")[0]
        ledger.run(
            models.register,
            MODEL,
            str(folder),
            None,
            described(folder),
            tiny_editor(folder),
            OPEN_GATE,
            actor="tests",
        )
        self.settings = settings or WorkerSettings(device="cpu", dtype="float32")
        self.resident = prepare(ledger, ledger.run(models.get, MODEL), self.settings, lambda *_: None)
        self.hire()

    def hire(self) -> None:
        """Take on another worker, who knows nothing."""
        self.desk = Desk(self.ledger, self.resident)

    def do(self, job_id: str) -> None:
        """Do a job to its end."""
        claim = self.ledger.run(jobs.claim, job_id, "tests", LEASE_S)
        assert claim is not None
        with Lease(self.ledger, claim, LEASE_S, threading.Event()) as lease:
            perform(self.desk, lease, self.settings.verify_live_facts)

    def post(self, *facts: dict[str, Any], **options: Any) -> str:
        """Post an edit set and do its job; returns its id."""
        record, _ = self.ledger.run(ledger_edit_sets.accept, MODEL, list(facts), actor=self.key, **options)
        self.do(record.job_id)
        return record.id

    def edit(self, *facts: dict[str, Any], **options: Any) -> VersionRecord:
        """Post an edit set and do its job; returns its version."""
        number = self.ledger.run(ledger_edit_sets.get, self.post(*facts, **options)).version
        assert number is not None, "a dry run makes no version"
        return self.ledger.run(versions.get, MODEL, number)

    def withdraw(self, edit_sets: Sequence[str] = (), facts: Sequence[str] = ()) -> VersionRecord:
        """Withdraw edit sets and single facts."""
        self.do(self.ledger.run(withdrawals.request, MODEL, edit_sets, facts, "a test", self.key).job_id)
        return self.live

    @property
    def live(self) -> VersionRecord:
        """The live version."""
        return self.ledger.run(versions.get, MODEL, "live")

"""A worker's part played by a test, through the real ledger and the real broker, without a model.

Where the worker itself is under test, the end-to-end tests run the true one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from sqlalchemy.orm import Session

from broker import generation, presence
from ledger import Ledger
from ledger.auth import keys
from ledger.jobs import commit, jobs
from ledger.models import ready
from ledger.records import Claim, FactReport, KeyRecord, NewVersion, VersionRecord
from tests.ledger.work import changed

WEIGHTS = "sha256:" + "7" * 64
SUMMARY = {
    "edit_success": 1.0,
    "generation_success": 1.0,
    "generalisation": None,
    "locality": 1.0,
    "perplexity_ratio": 1.0,
}


def prepare(ledger: Ledger, model_id: str = "tiny") -> None:
    """Make a model ready, as a worker does after loading it."""
    ledger.run(
        ready.mark_ready, model_id, b"editor", {"trained": False}, {"prompts": []}, WEIGHTS, actor="worker"
    )


def any_key(session: Session) -> KeyRecord:
    """A key that edits."""
    return keys.create(session, "player", {"edit"}, actor="system")[0]


def claim(ledger: Ledger, job_id: str) -> Claim:
    """Take a job."""
    taken = ledger.run(jobs.claim, job_id, "player", 30)
    assert taken is not None
    return taken


def finish(ledger: Ledger, job_id: str, *, gate_met: bool = True) -> VersionRecord:
    """Do a job: put blobs, commit a version."""
    taken = claim(ledger, job_id)
    work = ledger.run(commit.load, taken)
    reports: tuple[FactReport, ...] = ()
    statistics = ledger.blobs.put(b"statistics of " + job_id.encode())
    if work.edit_set is not None:
        reports = tuple(
            FactReport(work.edit_set.id, fact.position, {"edit_success": 1.0}) for fact in work.facts
        )
    members = changed(ledger, work, statistics)
    ledger.run(jobs.verifying, taken)
    new = NewVersion(
        kind=taken.kind,
        parent_number=work.live.number,
        statistics_digest=statistics if work.edit_set is not None else None,
        delta_digest=ledger.blobs.put(b"delta of " + job_id.encode()) if members else None,
        weights_digest=WEIGHTS,
        report=SUMMARY,
        gate_met=gate_met,
        fact_reports=reports,
    )
    return ledger.run(commit.commit, taken, new)


class Writer:
    """Answers generation calls with ` word` for each token, until it is told otherwise."""

    def __init__(self, redis: Redis, model_id: str) -> None:
        self.redis, self.model_id = redis, model_id
        self.calls: list[generation.GenerationCall] = []
        self.cancelled = threading.Event()
        self.silent = threading.Event()
        self.error: dict[str, Any] | None = None
        self.pause_s = 0.0
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.is_set():
            presence.announce(self.redis, self.model_id, "player", "idle", 5)
            call = generation.receive(self.redis, self.model_id, "player", 0.1)
            if isinstance(call, generation.GenerationCall):
                self.calls.append(call)
                self.answer(call)
        presence.withdraw(self.redis, self.model_id, "player")

    def answer(self, call: generation.GenerationCall) -> None:
        if self.error is not None:
            generation.reply(self.redis, [(call.id, {"error": self.error})])
            return
        assert isinstance(call.request, generation.TextRequest)
        count = call.request.max_new_tokens
        for _ in range(count):
            if generation.is_cancelled(self.redis, call.id):
                self.cancelled.set()
                return
            if not self.silent.is_set():
                generation.reply(self.redis, [(call.id, {"text": " word"})])
            time.sleep(self.pause_s)
        usage = {"prompt_tokens": 1, "completion_tokens": count}
        last = {"text": "", "finish_reason": "length", "usage": usage, "weights_digest": WEIGHTS}
        generation.reply(self.redis, [(call.id, last)])


@contextmanager
def writing(redis: Redis, model_id: str = "tiny") -> Iterator[Writer]:
    """A thread that serves generation."""
    writer = Writer(redis, model_id)
    thread = threading.Thread(target=writer.run, daemon=True)
    thread.start()
    until = time.monotonic() + 5
    while not presence.workers(redis, model_id):
        assert time.monotonic() < until
        time.sleep(0.01)
    try:
        yield writer
    finally:
        writer.stopped.set()
        thread.join(timeout=10)

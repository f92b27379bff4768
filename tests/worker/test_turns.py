"""A worker whose commit is not due waits for the job whose turn it is, and solves again on what that made."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ledger import Ledger
from ledger.blobs.store import LocalBlobs
from ledger.db.engine import open_engine
from ledger.errors import JobCancelled
from ledger.jobs.jobs import PATIENCE
from ledger.records import Claim, EditSetRecord
from tests.inprocess import LEASE_S, Office, fact
from tests.servers import Postgres
from worker import editing
from worker.composing import Desk
from worker.editing import perform
from worker.lease import Lease

pytestmark = pytest.mark.stack


@pytest.fixture
def office(postgres_server: Postgres, tmp_path: Path, tiny_folder: Path) -> Iterator[Office]:
    with postgres_server.database() as url:
        ledger = Ledger(open_engine(url), LocalBlobs(tmp_path))
        yield Office(ledger, tiny_folder)
        ledger.close()


def accept(office: Office, number: int, *, overtaken: int = 0) -> tuple[EditSetRecord, Claim]:
    """An edit set of one fact, claimed, and overtaken so often."""
    record, _ = office.ledger.accept("tiny", [fact(number)], actor=office.key)
    claim = office.ledger.claim(record.job_id, "tests", LEASE_S)
    assert claim is not None
    for _ in range(overtaken):
        office.ledger.load_job(claim, overtaken=True)
    return record, claim


def work(office: Office, claim: Claim) -> None:
    """Do a claimed job, at a desk of its own."""
    with Lease(office.ledger, claim, LEASE_S, threading.Event()) as lease:
        perform(Desk.open(office.ledger, office.resident), lease, 100)


def waiting(office: Office, record: EditSetRecord) -> bool:
    """Whether a job has come to its commit, and stays there."""
    for _ in range(200):
        progress = office.ledger.get_edit_set(record.id).progress
        if progress is not None and progress.stage == "committing":
            time.sleep(1.0)
            return office.ledger.get_edit_set(record.id).status == "verifying"
        time.sleep(0.1)
    return False


def test_a_worker_waits_for_another_turn(office: Office) -> None:
    slow, slowly = accept(office, 0, overtaken=PATIENCE)
    quick, quickly = accept(office, 1)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(work, office, quickly)
        assert waiting(office, quick)
        work(office, slowly)
        other.result(60)
    first, second = (office.ledger.get_edit_set(record.id) for record in (slow, quick))
    assert (first.version, second.version) == (1, 2)
    assert set(office.ledger.members("tiny", "live")) == {slow.id, quick.id}
    with office.ledger.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT id, overtaken FROM jobs").all()
    assert {(job, times) for job, times in rows} == {(slow.job_id, PATIENCE), (quick.job_id, 1)}


def test_nobody_waits_for_ever(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "LONGEST_TURN_S", 1.0)
    accept(office, 0, overtaken=PATIENCE)
    quick, quickly = accept(office, 1)
    work(office, quickly)
    assert tuple(office.ledger.members("tiny", "live")) == (quick.id,)


def test_a_job_can_be_cancelled_while_it_waits(office: Office) -> None:
    accept(office, 0, overtaken=PATIENCE)
    quick, quickly = accept(office, 1)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(work, office, quickly)
        assert waiting(office, quick)
        office.ledger.cancel(quick.id, office.key)
        with pytest.raises(JobCancelled):
            other.result(60)
    assert office.live.number == 0

"""Of the jobs of one model, one solves at a time; the others wait, and solve on what it made."""

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
from ledger.edits import edit_sets
from ledger.errors import JobCancelled
from ledger.jobs import commit, jobs
from ledger.records import Claim, EditSetRecord
from ledger.versions import versions
from tests.inprocess import LEASE_S, Office, fact
from tests.servers import Postgres
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


def accept(office: Office, number: int, *, dry_run: bool = False) -> tuple[EditSetRecord, Claim]:
    """An edit set of one fact, claimed."""
    record, _ = office.ledger.run(edit_sets.accept, "tiny", [fact(number)], actor=office.key, dry_run=dry_run)
    claim = office.ledger.run(jobs.claim, record.job_id, "tests", LEASE_S)
    assert claim is not None
    return record, claim


def work(office: Office, claim: Claim) -> None:
    """Do a claimed job, at a desk of its own."""
    with Lease(office.ledger, claim, LEASE_S, threading.Event()) as lease:
        perform(Desk(office.ledger, office.resident), lease, 100)


def waiting(office: Office, record: EditSetRecord) -> bool:
    """Whether a job comes to wait for another that solves, and stays there."""
    for _ in range(200):
        progress = office.ledger.run(edit_sets.get, record.id).progress
        if progress is not None and progress.stage == "waiting":
            time.sleep(1.0)
            return office.ledger.run(edit_sets.get, record.id).status == "running"
        time.sleep(0.1)
    return False


def test_a_job_waits_while_another_solves_and_goes_on_from_there(office: Office) -> None:
    first, solving = accept(office, 0)
    office.ledger.run(commit.load, solving, to_solve=True)
    second, waits = accept(office, 1)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(work, office, waits)
        assert waiting(office, second)
        work(office, solving)
        other.result(60)
    assert [office.ledger.run(edit_sets.get, record.id).version for record in (first, second)] == [1, 2]
    assert set(office.ledger.run(versions.members_of, "tiny", "live")) == {first.id, second.id}


def test_a_dry_run_waits_for_nobody(office: Office) -> None:
    _, solving = accept(office, 0)
    office.ledger.run(commit.load, solving, to_solve=True)
    record, claim = accept(office, 1, dry_run=True)
    work(office, claim)
    assert office.ledger.run(edit_sets.get, record.id).status == "verified"


def test_a_job_can_be_cancelled_while_it_waits(office: Office) -> None:
    _, solving = accept(office, 0)
    office.ledger.run(commit.load, solving, to_solve=True)
    record, waits = accept(office, 1)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(work, office, waits)
        assert waiting(office, record)
        office.ledger.run(edit_sets.cancel, record.id, office.key)
        with pytest.raises(JobCancelled):
            other.result(60)
    assert office.live.number == 0

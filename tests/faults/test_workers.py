"""Workers that are killed, stopped or poisoned: each accepted set ends in one version."""

from __future__ import annotations

import signal
import time
from functools import partial

import pytest

from ledger.edits import edit_sets as ledger_edit_sets
from ledger.versions import versions
from tests.harness import LEASE_S, MODEL, Backend, Started, eventually, wait_stopped
from worker.faults import POINTS
from worker.settings import WorkerSettings

pytestmark = pytest.mark.stack


def test_a_worker_killed_at_any_step_leaves_one_version(back: Backend) -> None:
    """Each worker finishes what its predecessor was killed at, then dies at the next step of its own set."""
    edit_sets: list[str] = []
    for label in POINTS:
        worker = back.start_worker(
            ERRATA_FAULTS="1", ERRATA_FAULT_POINT=label, ERRATA_FAULT_MATCH=f"at {label}"
        )
        if edit_sets:
            back.wait_for(edit_sets[-1])
        edit_sets.append(back.post(f"The capital of {label} is", "Lima", note=f"at {label}"))
        assert worker.wait(40) == -signal.SIGKILL
    back.start_worker()
    for edit_set in edit_sets:
        back.wait_for(edit_set)
        assert len(back.versions_of(edit_set)) == 1
    assert tuple(back.ledger.run(versions.members_of, MODEL, "live")) == tuple(sorted(edit_sets))
    assert back.ledger.verify().ok


def test_a_killed_worker_is_replaced_soon_after_its_lease(back: Backend) -> None:
    doomed = back.start_worker(ERRATA_FAULTS="1", ERRATA_FAULT_POINT="after_claim")
    edit_set = back.post()
    assert doomed.wait(40) == -signal.SIGKILL
    back.start_worker()
    died = time.monotonic()
    back.wait_for(edit_set)
    assert time.monotonic() - died < LEASE_S + 15


@pytest.mark.slow
def test_a_killed_workers_edit_runs_again_within_twenty_seconds(back: Backend) -> None:
    """With the lease that workers have unless told otherwise, and another worker that has loaded its model."""
    lease = {"ERRATA_LEASE_S": str(WorkerSettings().lease_s)}
    other = back.start_worker(**lease)
    eventually("its model", lambda: "is resident after" in back.log_of(other), 60)
    other.send_signal(signal.SIGSTOP)  # so that the doomed one gets the edit
    doomed = back.start_worker(ERRATA_FAULTS="1", ERRATA_FAULT_POINT="after_claim", **lease)
    edit_set = back.post()
    assert doomed.wait(60) == -signal.SIGKILL
    died = time.monotonic()
    other.send_signal(signal.SIGCONT)
    eventually("its next attempt", lambda: back.ledger.run(ledger_edit_sets.get, edit_set).progress, 60)
    assert time.monotonic() - died < 20
    back.wait_for(edit_set)


def test_a_worker_that_slept_past_its_lease_is_refused(back: Backend) -> None:
    sleeper = back.start_worker(
        ERRATA_FAULTS="1", ERRATA_FAULT_POINT="before_commit", ERRATA_FAULT_ACTION="stop"
    )
    edit_set = back.post()
    wait_stopped(sleeper)
    back.start_worker()
    back.wait_for(edit_set)
    live = back.ledger.run(versions.get, MODEL, "live")
    sleeper.send_signal(signal.SIGCONT)
    eventually("the refusal", lambda: "was left" in back.log_of(sleeper))
    assert back.versions_of(edit_set) == [live.number]
    assert back.ledger.run(versions.get, MODEL, "live") == live
    assert sleeper.poll() is None


def test_an_edit_that_kills_its_worker_is_quarantined_and_others_go_on(back: Backend) -> None:
    poison, good = back.post(note="poison"), back.post("The capital of France is", "Lima")
    armed = {"ERRATA_FAULTS": "1", "ERRATA_FAULT_POINT": "after_claim", "ERRATA_FAULT_MATCH": "poison"}

    def ended_or_failed(worker: Started) -> bool:
        return worker.poll() is not None or back.ledger.run(ledger_edit_sets.get, poison).status == "failed"

    deaths, until = 0, time.monotonic() + 60
    while back.ledger.run(ledger_edit_sets.get, poison).status != "failed" and time.monotonic() < until:
        worker = back.start_worker(**armed)
        eventually("its end", partial(ended_or_failed, worker), 40)
        deaths += worker.poll() is not None
    assert deaths == 3
    error = back.ledger.run(ledger_edit_sets.get, poison).error
    assert error is not None
    assert "quarantine" in str(error)
    back.wait_for(good)


def test_two_workers_compose_sets_that_they_made_at_once(back: Backend) -> None:
    """The head moves under one of them, which solves again on the other's version."""
    back.start_worker()
    back.start_worker()
    edit_sets = [back.post(f"The capital of land {n} is", "Lima") for n in range(6)]
    for edit_set in edit_sets:
        back.wait_for(edit_set)
    assert tuple(back.ledger.run(versions.members_of, MODEL, "live")) == tuple(sorted(edit_sets))
    assert back.ledger.verify().ok

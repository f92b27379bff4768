"""The lock under which one job of a model solves, and the next job that a worker is given."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ledger.errors import HeadMoved, SolveLocked
from ledger.jobs import commit
from ledger.jobs import jobs as ledger_jobs
from ledger.models import aliases
from ledger.records import Claim
from tests.ledger.work import Bench, ready_model


def expire(bench: Bench, claim: Claim) -> None:
    bench.execute(f"UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE id = '{claim.job_id}'")


def test_one_job_solves_at_a_time(bench: Bench) -> None:
    one, other = bench.claim(bench.post()), bench.claim(bench.post())
    job = bench.ledger.run(commit.load, one, to_solve=True)
    assert bench.ledger.run(commit.load, one, to_solve=True) == job, "who has the lock may ask again"
    with pytest.raises(SolveLocked, match=one.job_id):
        bench.ledger.run(commit.load, other, to_solve=True)
    assert bench.ledger.run(commit.load, other).edit_set is not None, "statistics are taken side by side"
    assert bench.ledger.run(commit.commit, one, bench.solve(job)).number == 1
    solved = bench.solve(bench.ledger.run(commit.load, other, to_solve=True))
    assert bench.ledger.run(commit.commit, other, solved).number == 2


@pytest.mark.parametrize(
    "leave",
    [
        lambda bench, claim: bench.ledger.run(ledger_jobs.release, claim),
        lambda bench, claim: bench.ledger.run(ledger_jobs.fail, claim, {"code": "a-test"}),
        expire,
    ],
)
def test_the_lock_ends_with_the_claim(bench: Bench, leave: Callable[[Bench, Claim], object]) -> None:
    one, other = bench.claim(bench.post()), bench.claim(bench.post())
    bench.ledger.run(commit.load, one, to_solve=True)
    leave(bench, one)
    bench.ledger.run(commit.load, other, to_solve=True)


def test_a_claim_that_was_lost_and_made_again_does_not_hold_the_lock(bench: Bench) -> None:
    ident = bench.post()
    one, other = bench.claim(ident), bench.claim(bench.post())
    bench.ledger.run(commit.load, one, to_solve=True)
    expire(bench, one)
    again = bench.claim(ident)
    bench.ledger.run(commit.load, other, to_solve=True)
    with pytest.raises(SolveLocked):
        bench.ledger.run(commit.load, again, to_solve=True)


def test_an_administrator_moves_the_head_all_the_same(bench: Bench) -> None:
    claim = bench.claim(bench.post())
    solved = bench.solve(bench.ledger.run(commit.load, claim, to_solve=True))
    bench.ledger.run(aliases.roll_back, "tiny", 0, "r", bench.key)
    with pytest.raises(HeadMoved):
        bench.ledger.run(commit.commit, claim, solved)
    again = bench.solve(bench.ledger.run(commit.load, claim, to_solve=True))
    assert bench.ledger.run(commit.commit, claim, again).number == 2


def test_models_have_locks_of_their_own(bench: Bench) -> None:
    bench.ledger.run(commit.load, bench.claim(bench.post()), to_solve=True)
    ready_model(bench.ledger, "other")
    other = replace(bench, model="other")
    bench.ledger.run(commit.load, other.claim(other.post()), to_solve=True)


def next_job(bench: Bench, model: str = "tiny", **options: float) -> str | None:
    claim = bench.ledger.run(ledger_jobs.claim_next, model, "w1", 30.0, **options)  # type: ignore[arg-type]
    return None if claim is None else claim.job_id


def test_the_next_job_is_the_one_that_waits_longest(bench: Bench) -> None:
    first, second = (bench.job_of(bench.post()) for _ in range(2))
    ready_model(bench.ledger, "other")
    other = replace(bench, model="other")
    theirs = other.job_of(other.post())
    assert [next_job(bench) for _ in range(3)] == [first, second, None]
    assert next_job(bench, "other") == theirs
    assert bench.ledger.run(ledger_jobs.waiting) == {}


def test_what_was_given_back_or_lost_is_next_again(bench: Bench) -> None:
    claim = bench.ledger.run(ledger_jobs.claim_next, "tiny", "w1", 30.0) if bench.post() else None
    assert claim is not None
    bench.ledger.run(ledger_jobs.release, claim, counted=False)
    assert next_job(bench) == claim.job_id
    expire(bench, claim)
    assert bench.ledger.run(ledger_jobs.waiting) == {"tiny": 1}
    assert next_job(bench) == claim.job_id


def test_what_is_put_off_waits(bench: Bench) -> None:
    job = bench.job_of(bench.post())
    claim = bench.ledger.run(ledger_jobs.claim_next, "tiny", "w1", 30.0)
    assert claim is not None
    bench.ledger.run(ledger_jobs.release, claim, counted=False, delay_s=0.5)
    assert next_job(bench) is None
    time.sleep(0.6)
    assert next_job(bench) == job


def test_one_that_keeps_killing_its_worker_is_passed_over(bench: Bench) -> None:
    poison, good = bench.post(), bench.post()
    for _ in range(3):
        expire(bench, bench.claim(poison))
    assert next_job(bench) == bench.job_of(good)
    assert bench.status(poison) == "failed"


def test_workers_share_jobs_out(bench: Bench) -> None:
    jobs = sorted(bench.job_of(bench.post(1)) for _ in range(12))
    start = threading.Barrier(4)

    def take(_: int) -> list[str]:
        start.wait()
        taken = []
        while (job := next_job(bench)) is not None:
            taken.append(job)
        return taken

    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(take, range(4)))
    found = sorted(job for share in shares for job in share)
    assert len(found) == len(set(found))
    assert set(found) <= set(jobs)
    rest = []
    while (job := next_job(bench)) is not None:
        rest.append(job)
    assert sorted([*found, *rest]) == jobs

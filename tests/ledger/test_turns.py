"""Turns: a job that others overtake again and again commits first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ledger.errors import HeadMoved, NotItsTurn
from ledger.jobs.jobs import PATIENCE
from ledger.records import Claim, NewVersion
from tests.ledger.work import Bench, ready_model


def overtaken(bench: Bench, times: int) -> tuple[Claim, NewVersion]:
    """A job at work that was overtaken so often, solved on what is live now."""
    claim = bench.claim(bench.post())
    job = bench.ledger.load_job(claim)
    for _ in range(times):
        job = bench.ledger.load_job(claim, overtaken=True)
    return claim, bench.solve(job)


def test_who_was_overtaken_often_goes_first(bench: Bench) -> None:
    slow, solved = overtaken(bench, PATIENCE)
    quick, other = overtaken(bench, PATIENCE - 1)
    with pytest.raises(NotItsTurn, match=slow.job_id):
        bench.ledger.commit_version(quick, other)
    assert bench.ledger.commit_version(slow, solved).number == 1
    with pytest.raises(HeadMoved):
        bench.ledger.commit_version(quick, other)
    again = bench.solve(bench.ledger.load_job(quick, overtaken=True))
    assert bench.ledger.commit_version(quick, again).number == 2


def test_nobody_waits_for_one_that_was_overtaken_less(bench: Bench) -> None:
    overtaken(bench, PATIENCE - 1)
    quick, solved = overtaken(bench, 0)
    assert bench.ledger.commit_version(quick, solved).number == 1


def test_of_several_one_goes_first(bench: Bench) -> None:
    last, *others = [overtaken(bench, PATIENCE + often) for often in (0, 1, 1)]
    first, second = sorted(others, key=lambda each: each[0].job_id)
    for claim, solved in (second, last):
        with pytest.raises(NotItsTurn, match=first[0].job_id):
            bench.ledger.commit_version(claim, solved)
    bench.ledger.commit_version(*first)
    for number, (claim, _) in enumerate((second, last), start=2):
        solved = bench.solve(bench.ledger.load_job(claim))
        assert bench.ledger.commit_version(claim, solved).number == number


@pytest.mark.parametrize(
    "leave",
    [
        lambda bench, claim: bench.ledger.release(claim),
        lambda bench, claim: bench.ledger.fail_job(claim, {"code": "a-test"}),
        lambda bench, claim: bench.execute(
            f"UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE id = '{claim.job_id}'"
        ),
    ],
)
def test_nobody_waits_for_one_that_is_not_at_work(
    bench: Bench, leave: Callable[[Bench, Claim], object]
) -> None:
    slow, _ = overtaken(bench, PATIENCE)
    leave(bench, slow)
    quick, solved = overtaken(bench, 0)
    assert bench.ledger.commit_version(quick, solved).number == 1


def test_a_job_that_is_taken_again_starts_without_a_turn(bench: Bench) -> None:
    slow, _ = overtaken(bench, PATIENCE)
    bench.ledger.release(slow)
    assert bench.ledger.claim(slow.job_id, "w2", 30) is not None
    quick, solved = overtaken(bench, 0)
    assert bench.ledger.commit_version(quick, solved).number == 1


def test_nobody_waits_for_a_job_of_another_model(bench: Bench) -> None:
    overtaken(bench, PATIENCE)
    ready_model(bench.ledger, "other")
    other = replace(bench, model="other")
    claim, solved = overtaken(other, 0)
    assert bench.ledger.commit_version(claim, solved).number == 1

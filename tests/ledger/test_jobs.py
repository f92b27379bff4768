from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from ledger.edits import edit_sets, facts
from ledger.errors import HeadMoved, IllegalTransition, JobCancelled, LeaseLost
from ledger.jobs import commit, jobs
from ledger.models import aliases, models, ready
from ledger.states import LEGAL_TRANSITIONS
from ledger.versions import versions
from tests.ledger.work import Bench


def expire(bench: Bench) -> None:
    bench.execute(
        "UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE lease_expires_at IS NOT NULL"
    )


def test_a_ready_model_has_version_0_live(bench: Bench) -> None:
    model = bench.ledger.run(models.get, "tiny")
    assert (model.status, model.live_version) == ("ready", 0)
    assert model.editor_card == {"name": "untrained"}
    base = bench.ledger.run(versions.get, "tiny", "live")
    assert (base.kind, base.number, base.parent, base.edit_set_count) == ("base", 0, None, 0)
    assert base.aliases == ("live",)
    again = bench.ledger.run(ready.mark_ready, "tiny", b"another", {}, {}, "sha256:other", actor="worker")
    assert again == model
    assert bench.ledger.run(models.fail, "tiny", {"code": "late"}).status == "ready"


def test_an_edit_from_post_to_live(bench: Bench) -> None:
    ident = bench.post(3)
    claim = bench.claim(ident)
    assert (claim.kind, claim.attempt, claim.fence, bench.status(ident)) == ("edit", 1, 1, "running")
    job = bench.ledger.run(commit.load, claim)
    assert job.edit_set is not None
    assert [fact.id for fact in job.facts] == [f"{ident}.{position}" for position in range(3)]
    assert job.gate == job.model.gate
    bench.ledger.run(jobs.progress, claim, "editing", 1, 3)
    shown = bench.ledger.run(edit_sets.get, ident).progress
    assert shown is not None
    assert (shown.stage, shown.done, shown.total) == ("editing", 1, 3)
    bench.ledger.run(jobs.verifying, claim)
    assert bench.status(ident) == "verifying"
    made = bench.ledger.run(commit.commit, claim, bench.solve(job))
    assert (made.number, made.parent, made.kind, made.live_fact_count) == (1, 0, "edit", 3)
    assert (made.aliases, made.created_by, bench.edit_sets(made)) == (("live",), bench.key.id, (ident,))
    done = bench.ledger.run(edit_sets.get, ident)
    assert (done.status, done.version, done.report) == ("applied", 1, made.report)
    assert done.finished_at is not None
    page = bench.ledger.run(facts.list_of, ident)
    assert all(fact.live for fact in page.items)
    assert page.items[2].report == {"edit_success": 1.0, "n": 2}
    assert bench.ledger.run(facts.of_version, "tiny", made.number)[1].id == f"{ident}.1"
    assert bench.ledger.run(jobs.claim, claim.job_id, "w2", 30) is None


def test_the_set_s_gate_goes_over_the_model_s(bench: Bench) -> None:
    ident = bench.post(1, gate={"edit_success": 0.1})
    gate = bench.ledger.run(commit.load, bench.claim(ident)).gate
    assert gate["edit_success"] == 0.1
    assert gate["perplexity_ratio"] == 1.1


def test_a_refused_version_is_kept_but_not_live(bench: Bench) -> None:
    ident = bench.post()
    made = bench.finish(ident, gate_met=False)
    assert bench.status(ident) == "rejected"
    assert (made.aliases, made.gate_met) == ((), False)
    assert bench.ledger.run(models.get, "tiny").live_version == 0
    assert bench.edit()[1].parent == 0


def test_manual_promotion_waits(bench: Bench) -> None:
    ident = bench.post(1, promote="manual")
    made = bench.finish(ident)
    assert bench.status(ident) == "applied"
    assert bench.ledger.run(models.get, "tiny").live_version == 0
    assert not bench.ledger.run(facts.list_of, ident).items[0].live
    assert bench.ledger.run(aliases.set_alias, "tiny", "live", made.number, bench.key).aliases == ("live",)
    assert bench.ledger.run(facts.list_of, ident).items[0].live


def test_only_one_of_many_claims_a_job(bench: Bench) -> None:
    job = bench.job_of(bench.post())
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: bench.ledger.run(jobs.claim, job, f"w{n}", 30), range(16)))
    assert sum(claim is not None for claim in claims) == 1


def test_a_worker_that_lost_its_lease_is_fenced_out(bench: Bench) -> None:
    ident = bench.post()
    slow = bench.claim(ident, "slow", lease_s=0.05)
    job = bench.ledger.run(commit.load, slow)
    bench.ledger.run(jobs.verifying, slow)
    time.sleep(0.1)
    quick = bench.claim(ident, "quick")
    assert (quick.fence, quick.attempt, bench.status(ident)) == (2, 2, "running")
    for call in (
        lambda: bench.ledger.run(jobs.renew, slow, 30),
        lambda: bench.ledger.run(jobs.progress, slow, "editing", 1, 1),
        lambda: bench.ledger.run(jobs.verifying, slow),
        lambda: bench.ledger.run(commit.load, slow),
        lambda: bench.ledger.run(jobs.fail, slow, {}),
        lambda: bench.ledger.run(jobs.release, slow),
        lambda: bench.ledger.run(commit.commit, slow, bench.solve(job)),
    ):
        with pytest.raises(LeaseLost):
            call()
    made = bench.ledger.run(commit.commit, quick, bench.solve(bench.ledger.run(commit.load, quick)))
    with pytest.raises(LeaseLost):
        bench.ledger.run(commit.commit, slow, bench.solve(job))
    assert [version.number for version in bench.ledger.run(versions.list_all, "tiny").items] == [
        made.number,
        0,
    ]


def test_renewal_keeps_others_away(bench: Bench) -> None:
    ident = bench.post()
    claim = bench.claim(ident, lease_s=0.05)
    bench.ledger.run(jobs.renew, claim, 30)
    time.sleep(0.1)
    assert bench.ledger.run(jobs.claim, claim.job_id, "w2", 30) is None


def test_an_expired_lease_that_nobody_took_can_still_commit(bench: Bench) -> None:
    claim = bench.claim(bench.post())
    expire(bench)
    assert (
        bench.ledger.run(commit.commit, claim, bench.solve(bench.ledger.run(commit.load, claim))).number == 1
    )


def test_committing_again_after_a_lost_reply_gives_the_same_version(bench: Bench) -> None:
    claim = bench.claim(bench.post())
    new = bench.solve(bench.ledger.run(commit.load, claim))
    first = bench.ledger.run(commit.commit, claim, new)
    bench.edit()
    again = bench.ledger.run(commit.commit, claim, new)
    assert (again.number, again.hash) == (first.number, first.hash)
    assert len(bench.ledger.run(versions.list_all, "tiny").items) == 3


def test_a_moved_head_is_said_and_the_claim_goes_on(bench: Bench) -> None:
    first, second = bench.post(), bench.post()
    claim = bench.claim(first)
    job = bench.ledger.run(commit.load, claim)
    bench.ledger.run(jobs.verifying, claim)
    bench.finish(second)
    with pytest.raises(HeadMoved, match="live is now 1"):
        bench.ledger.run(commit.commit, claim, bench.solve(job))
    assert bench.status(first) == "verifying"
    job = bench.ledger.run(commit.load, claim)
    assert [*job.change] == [first]
    made = bench.ledger.run(commit.commit, claim, bench.solve(job))
    assert set(bench.edit_sets(made)) == {first, second}
    assert made.live_fact_count == 4


def test_release_lets_the_next_take_it_at_once(bench: Bench) -> None:
    ident = bench.post()
    bench.ledger.run(jobs.release, bench.claim(ident), counted=False)
    assert bench.status(ident) == "queued"
    again = bench.claim(ident)
    assert (again.fence, again.attempt) == (2, 1)
    bench.ledger.run(jobs.release, again)
    assert bench.claim(ident).attempt == 2


def test_an_edit_that_keeps_killing_its_worker_is_quarantined(bench: Bench) -> None:
    ident, other = bench.post(), bench.post()
    for attempt in range(1, 4):
        assert bench.claim(ident).attempt == attempt
        expire(bench)
    assert bench.ledger.run(jobs.claim, bench.job_of(ident), "w1", 30) is None
    failed = bench.ledger.run(edit_sets.get, ident)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error["type"] == "urn:errata:problem:quarantined"
    assert failed.finished_at is not None
    assert bench.finish(other).number == 1
    assert bench.ledger.run(jobs.waiting) == {}


def test_failure_keeps_its_problem(bench: Bench) -> None:
    ident = bench.post()
    claim = bench.claim(ident)
    bench.ledger.run(jobs.fail, claim, {"type": "urn:errata:problem:not-finite"})
    assert bench.ledger.run(edit_sets.get, ident).error == {"type": "urn:errata:problem:not-finite"}
    assert bench.status(ident) == "failed"
    with pytest.raises(LeaseLost):
        bench.ledger.run(jobs.renew, claim, 30)


@pytest.mark.parametrize("stage", ["queued", "running", "verifying"])
def test_cancelling_before_it_is_applied(bench: Bench, stage: str) -> None:
    ident = bench.post()
    claim = None
    if stage != "queued":
        claim = bench.claim(ident)
        job = bench.ledger.run(commit.load, claim)
    if stage == "verifying" and claim:
        bench.ledger.run(jobs.verifying, claim)
    assert bench.ledger.run(edit_sets.cancel, ident, bench.key).status == "cancelled"
    assert bench.ledger.run(edit_sets.cancel, ident, bench.key).status == "cancelled"
    if claim:
        with pytest.raises(JobCancelled):
            bench.ledger.run(jobs.renew, claim, 30)
        with pytest.raises(JobCancelled):
            bench.ledger.run(commit.commit, claim, bench.solve(job))
    assert bench.ledger.run(jobs.claim, bench.job_of(ident), "w2", 30) is None
    assert bench.ledger.run(models.get, "tiny").live_version == 0


def test_cancelling_too_late_is_refused(bench: Bench) -> None:
    ident, _ = bench.edit()
    with pytest.raises(IllegalTransition, match="is succeeded and cannot become cancelled"):
        bench.ledger.run(edit_sets.cancel, ident, bench.key)


def test_the_database_itself_refuses_every_illegal_transition(bench: Bench) -> None:
    statuses = sorted({status for pair in LEGAL_TRANSITIONS for status in pair})
    ident = bench.post()
    paths: dict[str, list[str]] = {
        "queued": [],
        "running": ["running"],
        "verifying": ["running", "verifying"],
        "applied": ["running", "verifying", "applied"],
        "rejected": ["running", "verifying", "rejected"],
        "failed": ["failed"],
        "verified": ["running", "verifying", "verified"],
        "cancelled": ["cancelled"],
        "withdrawn": ["running", "verifying", "applied", "withdrawn"],
    }
    connection = bench.ledger.engine.raw_connection()
    cursor = connection.cursor()

    def go(status: str) -> None:
        cursor.execute("UPDATE edit_sets SET status = %s WHERE id = %s", (status, ident))

    allowed = set()
    for old in statuses:
        for new in statuses:
            for step in paths[old]:
                go(step)
            try:
                go(new)
                allowed.add((old, new))
            except connection.dbapi_connection.IntegrityError as error:  # type: ignore[union-attr]
                assert "illegal transition" in str(error)  # noqa: PT017
            connection.rollback()
    connection.close()
    assert allowed == LEGAL_TRANSITIONS | {(status, status) for status in statuses}


def test_a_version_is_never_older_than_those_before(bench: Bench) -> None:
    """Whatever clocks say: that of this host is not asked, and the database's may have been set back."""
    _, first = bench.edit()
    now = bench.rows("SELECT clock_timestamp()")[0][0]
    assert now - timedelta(minutes=5) < first.created_at <= now
    bench.execute(
        "SET session_replication_role = replica",
        "UPDATE versions SET created_at = created_at + interval '1 hour' WHERE number = 1",
    )
    ahead = bench.ledger.run(versions.get, "tiny", 1).created_at
    assert (
        bench.edit()[1].created_at
        == bench.ledger.run(aliases.roll_back, "tiny", 0, "r", bench.key).created_at
        == ahead
    )

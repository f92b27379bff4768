from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from ledger.errors import HeadMoved, IllegalTransition, JobCancelled, LeaseLost
from ledger.states import LEGAL_TRANSITIONS
from tests.ledger.work import Bench, ready_model


def expire(bench: Bench) -> None:
    bench.execute(
        "UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE lease_expires_at IS NOT NULL"
    )


def test_a_ready_model_has_version_0_live(bench: Bench) -> None:
    model = bench.ledger.get_model("tiny")
    assert (model.status, model.live_version) == ("ready", 0)
    assert model.editor_card == {"name": "untrained"}
    base = bench.ledger.get_version("tiny", "live")
    assert (base.kind, base.number, base.parent, base.edit_set_count) == ("base", 0, None, 0)
    assert base.aliases == ("live",)
    again = bench.ledger.complete_model("tiny", b"another", {}, {}, "sha256:other", actor="worker")
    assert again == model
    assert bench.ledger.fail_model("tiny", {"code": "late"}).status == "ready"


def test_an_edit_from_post_to_live(bench: Bench) -> None:
    ident = bench.post(3)
    claim = bench.claim(ident)
    assert (claim.kind, claim.attempt, claim.fence, bench.status(ident)) == ("edit", 1, 1, "running")
    job = bench.ledger.load_job(claim)
    assert job.edit_set is not None
    assert [fact.id for fact in job.facts] == [f"{ident}.{position}" for position in range(3)]
    assert job.gate == job.model.gate
    bench.ledger.progress(claim, "editing", 1, 3)
    shown = bench.ledger.get_edit_set(ident).progress
    assert shown is not None
    assert (shown.stage, shown.done, shown.total) == ("editing", 1, 3)
    bench.ledger.verifying(claim)
    assert bench.status(ident) == "verifying"
    made = bench.ledger.commit_version(claim, bench.solve(job))
    assert (made.number, made.parent, made.kind, made.live_fact_count) == (1, 0, "edit", 3)
    assert (made.aliases, made.created_by, bench.edit_sets(made)) == (("live",), bench.key.id, (ident,))
    done = bench.ledger.get_edit_set(ident)
    assert (done.status, done.version, done.report) == ("applied", 1, made.report)
    assert done.finished_at is not None
    page = bench.ledger.get_facts(ident)
    assert all(fact.live for fact in page.items)
    assert page.items[2].report == {"edit_success": 1.0, "n": 2}
    assert bench.ledger.facts_of("tiny", made.number)[1].id == f"{ident}.1"
    assert bench.ledger.claim(claim.job_id, "w2", 30) is None


def test_the_set_s_gate_goes_over_the_model_s(bench: Bench) -> None:
    ident = bench.post(1, gate={"edit_success": 0.1})
    gate = bench.ledger.load_job(bench.claim(ident)).gate
    assert gate["edit_success"] == 0.1
    assert gate["perplexity_ratio"] == 1.1


def test_a_refused_version_is_kept_but_not_live(bench: Bench) -> None:
    ident = bench.post()
    made = bench.finish(ident, gate_met=False)
    assert bench.status(ident) == "rejected"
    assert (made.aliases, made.gate_met) == ((), False)
    assert bench.ledger.get_model("tiny").live_version == 0
    assert bench.edit()[1].parent == 0


def test_manual_promotion_waits(bench: Bench) -> None:
    ident = bench.post(1, promote="manual")
    made = bench.finish(ident)
    assert bench.status(ident) == "applied"
    assert bench.ledger.get_model("tiny").live_version == 0
    assert not bench.ledger.get_facts(ident).items[0].live
    assert bench.ledger.set_alias("tiny", "live", made.number, bench.key).aliases == ("live",)
    assert bench.ledger.get_facts(ident).items[0].live


def test_only_one_of_many_claims_a_job(bench: Bench) -> None:
    job = bench.job_of(bench.post())
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: bench.ledger.claim(job, f"w{n}", 30), range(16)))
    assert sum(claim is not None for claim in claims) == 1


def test_a_worker_that_lost_its_lease_is_fenced_out(bench: Bench) -> None:
    ident = bench.post()
    slow = bench.claim(ident, "slow", lease_s=0.05)
    job = bench.ledger.load_job(slow)
    bench.ledger.verifying(slow)
    time.sleep(0.1)
    quick = bench.claim(ident, "quick")
    assert (quick.fence, quick.attempt, bench.status(ident)) == (2, 2, "running")
    for call in (
        lambda: bench.ledger.renew(slow, 30),
        lambda: bench.ledger.progress(slow, "editing", 1, 1),
        lambda: bench.ledger.verifying(slow),
        lambda: bench.ledger.load_job(slow),
        lambda: bench.ledger.fail_job(slow, {}),
        lambda: bench.ledger.release(slow),
        lambda: bench.ledger.commit_version(slow, bench.solve(job)),
    ):
        with pytest.raises(LeaseLost):
            call()
    made = bench.ledger.commit_version(quick, bench.solve(bench.ledger.load_job(quick)))
    with pytest.raises(LeaseLost):
        bench.ledger.commit_version(slow, bench.solve(job))
    assert [version.number for version in bench.ledger.list_versions("tiny").items] == [made.number, 0]


def test_renewal_keeps_others_away(bench: Bench) -> None:
    ident = bench.post()
    claim = bench.claim(ident, lease_s=0.05)
    bench.ledger.renew(claim, 30)
    time.sleep(0.1)
    assert bench.ledger.claim(claim.job_id, "w2", 30) is None


def test_an_expired_lease_that_nobody_took_can_still_commit(bench: Bench) -> None:
    claim = bench.claim(bench.post())
    expire(bench)
    assert bench.ledger.commit_version(claim, bench.solve(bench.ledger.load_job(claim))).number == 1


def test_committing_again_after_a_lost_reply_gives_the_same_version(bench: Bench) -> None:
    claim = bench.claim(bench.post())
    new = bench.solve(bench.ledger.load_job(claim))
    first = bench.ledger.commit_version(claim, new)
    bench.edit()
    again = bench.ledger.commit_version(claim, new)
    assert (again.number, again.hash) == (first.number, first.hash)
    assert len(bench.ledger.list_versions("tiny").items) == 3


def test_a_moved_head_is_said_and_the_claim_goes_on(bench: Bench) -> None:
    first, second = bench.post(), bench.post()
    claim = bench.claim(first)
    job = bench.ledger.load_job(claim)
    bench.ledger.verifying(claim)
    bench.finish(second)
    with pytest.raises(HeadMoved, match="live is now 1"):
        bench.ledger.commit_version(claim, bench.solve(job))
    assert bench.status(first) == "verifying"
    job = bench.ledger.load_job(claim)
    assert [*job.change] == [first]
    made = bench.ledger.commit_version(claim, bench.solve(job))
    assert set(bench.edit_sets(made)) == {first, second}
    assert made.live_fact_count == 4


def test_release_lets_the_next_take_it_at_once(bench: Bench) -> None:
    ident = bench.post()
    with bench.ledger.take_outbox(10) as rung:
        assert [ring.attempt for ring in rung] == [1]
    claim = bench.claim(ident)
    bench.ledger.release(claim, counted=False)
    assert bench.status(ident) == "queued"
    with bench.ledger.take_outbox(10) as rung:
        assert [(ring.job_id, ring.attempt) for ring in rung] == [(claim.job_id, 2)]
    again = bench.claim(ident)
    assert (again.fence, again.attempt) == (2, 1)
    bench.ledger.release(again)
    assert bench.claim(ident).attempt == 2


def test_a_job_that_is_put_off_is_rung_for_later(bench: Bench) -> None:
    ident = bench.post()
    with bench.ledger.take_outbox(10) as rung:
        assert len(rung) == 1
    bench.ledger.release(bench.claim(ident), counted=False, delay_s=0.5)
    with bench.ledger.take_outbox(10) as rung:
        assert rung == []
    assert (bench.status(ident), bench.ledger.jobs_to_ring(0)) == ("queued", [])
    time.sleep(0.6)
    assert [ring.job_id for ring in bench.ledger.jobs_to_ring(0)] == [bench.job_of(ident)]


def test_an_edit_that_keeps_killing_its_worker_is_quarantined(bench: Bench) -> None:
    ident, other = bench.post(), bench.post()
    for attempt in range(1, 4):
        assert bench.claim(ident).attempt == attempt
        expire(bench)
    assert bench.ledger.claim(bench.job_of(ident), "w1", 30) is None
    failed = bench.ledger.get_edit_set(ident)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error["type"] == "urn:errata:problem:quarantined"
    assert failed.finished_at is not None
    assert bench.finish(other).number == 1
    assert bench.ledger.jobs_to_ring(0) == []


def test_failure_keeps_its_problem(bench: Bench) -> None:
    ident = bench.post()
    claim = bench.claim(ident)
    bench.ledger.fail_job(claim, {"type": "urn:errata:problem:not-finite"})
    assert bench.ledger.get_edit_set(ident).error == {"type": "urn:errata:problem:not-finite"}
    assert bench.status(ident) == "failed"
    with pytest.raises(LeaseLost):
        bench.ledger.renew(claim, 30)


@pytest.mark.parametrize("stage", ["queued", "running", "verifying"])
def test_cancelling_before_it_is_applied(bench: Bench, stage: str) -> None:
    ident = bench.post()
    claim = None
    if stage != "queued":
        claim = bench.claim(ident)
        job = bench.ledger.load_job(claim)
    if stage == "verifying" and claim:
        bench.ledger.verifying(claim)
    assert bench.ledger.cancel(ident, bench.key).status == "cancelled"
    assert bench.ledger.cancel(ident, bench.key).status == "cancelled"
    if claim:
        with pytest.raises(JobCancelled):
            bench.ledger.renew(claim, 30)
        with pytest.raises(JobCancelled):
            bench.ledger.commit_version(claim, bench.solve(job))
    assert bench.ledger.claim(bench.job_of(ident), "w2", 30) is None
    assert bench.ledger.get_model("tiny").live_version == 0


def test_cancelling_too_late_is_refused(bench: Bench) -> None:
    ident, _ = bench.edit()
    with pytest.raises(IllegalTransition, match="is applied and cannot become cancelled"):
        bench.ledger.cancel(ident, bench.key)


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


def test_waiting_jobs_are_rung_again(bench: Bench) -> None:
    waiting, running, dead = bench.post(), bench.post(), bench.post()
    bench.claim(dead)
    expire(bench)
    bench.claim(running)
    assert [ring.job_id for ring in bench.ledger.jobs_to_ring(0)] == [
        bench.job_of(waiting),
        bench.job_of(dead),
    ]
    assert bench.ledger.jobs_to_ring(3600) == []
    assert {ring.attempt for ring in bench.ledger.jobs_to_ring(0)} == {1, 2}


def test_a_model_without_workers_keeps_no_other_from_being_rung(bench: Bench) -> None:
    ready_model(bench.ledger, "idle")
    idle = replace(bench, model="idle")
    old = [idle.job_of(idle.post(1)) for _ in range(101)]
    new = [bench.job_of(bench.post(1)) for _ in range(2)]
    rung = [ring.job_id for ring in bench.ledger.jobs_to_ring(0)]
    assert [job_id for job_id in rung if job_id in old] == old[:100]
    assert [job_id for job_id in rung if job_id in new] == new
    assert set(rung[:2]) == {old[0], new[0]}


def test_outbox_rows_are_shared_out_and_survive_a_failure(bench: Bench) -> None:
    idents = {bench.job_of(bench.post()) for _ in range(4)}
    with bench.ledger.take_outbox(2) as some, bench.ledger.take_outbox(10) as others:
        assert len(some) == len(others) == 2
        assert {ring.job_id for ring in [*some, *others]} == idents
    with bench.ledger.take_outbox(10) as rest:
        assert rest == []
    bench.post()

    def send_in_vain() -> None:
        with bench.ledger.take_outbox(10) as rung:
            assert len(rung) == 1
            raise ConnectionError

    with pytest.raises(ConnectionError):
        send_in_vain()
    with bench.ledger.take_outbox(10) as rung:
        assert len(rung) == 1


def test_listeners_hear_of_new_jobs(bench: Bench) -> None:
    heard = bench.ledger.listen(poll_s=0.05)
    assert next(heard) is False
    bench.post()
    assert any(next(heard) for _ in range(20))
    assert isinstance(heard, Generator)
    heard.close()


def test_a_version_is_never_older_than_those_before(bench: Bench) -> None:
    """Whatever clocks say: that of this host is not asked, and the database's may have been set back."""
    _, first = bench.edit()
    now = bench.rows("SELECT clock_timestamp()")[0][0]
    assert now - timedelta(minutes=5) < first.created_at <= now
    bench.execute(
        "SET session_replication_role = replica",
        "UPDATE versions SET created_at = created_at + interval '1 hour' WHERE number = 1",
    )
    ahead = bench.ledger.get_version("tiny", 1).created_at
    assert bench.edit()[1].created_at == bench.ledger.roll_back("tiny", 0, "r", bench.key).created_at == ahead

"""The ledger on real PostgreSQL against `model.Ledger`: random histories, compared after every step.

Each run has the database to itself, emptied before. Workers are several, hold jobs, lose them, and come back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from ledger import Ledger
from ledger.auth import keys
from ledger.blobs.store import open_blobs
from ledger.db.engine import open_engine
from ledger.edits import edit_sets, expiry, withdrawals
from ledger.edits import facts as ledger_facts
from ledger.edits.expiry import Looked
from ledger.errors import (
    FactConflict,
    GateNotMet,
    HeadMoved,
    IllegalTransition,
    InconsistentVersion,
    JobCancelled,
    LeaseLost,
    LedgerError,
    NotLive,
    StaleParent,
)
from ledger.jobs import commit as ledger_commit
from ledger.jobs import jobs
from ledger.models import aliases as ledger_aliases
from ledger.records import Claim, NewVersion
from ledger.versions import versions
from tests.ledger import model
from tests.ledger.work import REPORT, Bench, ready_model
from tests.servers import Postgres, as_owner

STEPS = 20
SUBJECTS = (None, "Peru", "Chile")
PROMPTS = ("The capital is", "The seat of government is", "Most people live in")
EMPTY = """
SET session_replication_role = replica;
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tablename FROM pg_tables
        WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'legal_transitions')
    LOOP EXECUTE 'DELETE FROM ' || quote_ident(name); END LOOP;
END $$;
"""
LOOK = """
SELECT
    (SELECT json_object_agg(name, number) FROM aliases),
    (SELECT coalesce(json_object_agg(id, status), '{}') FROM edit_sets),
    (SELECT json_object_agg(edit_set_id, withdrawn || superseded)
     FROM memberships JOIN aliases USING (model_id)
     WHERE name = 'live' AND from_version <= number AND (to_version IS NULL OR to_version > number)),
    head.number,
    newest.hash = head.hash AND newest.previous_hash IS NOT DISTINCT FROM before.hash
FROM heads AS head
JOIN versions AS newest ON newest.number = head.number
LEFT JOIN versions AS before ON before.number = head.number - 1
"""

fact_bodies = st.builds(
    lambda subject, prompt, others, target, expires_at: {
        "prompt": f"{subject}: {prompt}" if subject else prompt,
        "target": target,
        "expires_at": expires_at,
        "subject": subject,
        "rephrasings": sorted(f"{subject}: {other}" for other in others) if subject else [],
    },
    st.sampled_from(SUBJECTS),
    st.sampled_from(PROMPTS),
    st.frozensets(st.sampled_from(PROMPTS), max_size=1),
    st.sampled_from(("Lima", "Cusco")),
    st.sampled_from((None, None, None, datetime(2000, 1, 1, tzinfo=UTC))),
)


@contextmanager
def expecting(*kinds: type[LedgerError] | None) -> Iterator[None]:
    """Check that a block raises an error of the first kind that is not None, or nothing if all are."""
    wanted = next((kind for kind in kinds if kind is not None), None)
    with nullcontext() if wanted is None else pytest.raises(wanted):
        yield


class LedgerMachine(RuleBasedStateMachine):
    """Steps of clients, administrators and workers."""

    url: str

    look: psycopg.Connection[Any]

    @initialize()
    def start(self) -> None:
        self.look.execute(EMPTY)
        self.blobs = open_blobs("memory:///")
        self.open()
        key = self.ledger.run(keys.create, "editor", {"read", "edit"}, actor="system")[0]
        ready_model(self.ledger)
        self.bench = Bench(self.ledger, key)
        self.model = model.Ledger()
        self.looked: Looked | None = None
        self.claims: dict[str, Claim] = {}
        self.stale: list[tuple[str, Claim]] = []
        self.solved: dict[str, NewVersion] = {}

    def open(self) -> None:
        self.ledger = Ledger(open_engine(self.url, pool_size=1), self.blobs)

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.everything_agrees()
            self.ledger.close()

    def pick(self, data: st.DataObject, among: Any) -> Any:
        return data.draw(st.sampled_from(sorted(among)))

    # clients

    @rule(
        facts=st.lists(fact_bodies, min_size=1, max_size=3, unique_by=lambda fact: fact["prompt"]),
        promote=st.sampled_from(("auto", "auto", "manual")),
        on_conflict=st.sampled_from(("replace", "replace", "reject")),
        dry_run=st.sampled_from((False, False, False, True)),
    )
    def post(self, facts: list[dict[str, Any]], promote: Any, on_conflict: Any, dry_run: bool) -> None:
        refused = FactConflict if on_conflict == "reject" and self.model.conflicts(facts) else None
        with expecting(refused):
            record, _ = self.ledger.run(
                edit_sets.accept,
                "tiny",
                facts,
                promote,
                on_conflict=on_conflict,
                dry_run=dry_run,
                actor=self.bench.key,
            )
            order = len(self.model.sets)
            self.model.sets[record.id] = model.Set(order, tuple(facts), promote, on_conflict, dry_run)

    @precondition(lambda self: self.model.sets)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ident = self.pick(data, self.model.sets)
        work = self.model.work(ident)
        with expecting(None if work.open or work.status == "cancelled" else IllegalTransition):
            self.ledger.run(edit_sets.cancel, ident, self.bench.key)
            work.back("cancelled")

    # workers

    def unfinished(self) -> list[str]:
        return [ident for ident in (*self.model.sets, *self.model.withdrawals) if self.model.work(ident).open]

    @precondition(lambda self: self.unfinished())
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        self.claim_one(self.pick(data, self.unfinished()))

    def claim_one(self, ident: str) -> None:
        work = self.model.work(ident)
        claim = self.ledger.run(jobs.claim, self.bench.job_of(ident), "worker", 3600.0, model.MAX_ATTEMPTS)
        if work.leased:
            assert claim is None
        elif work.attempts >= model.MAX_ATTEMPTS:
            assert claim is None
            work.back("failed")
        else:
            assert claim is not None
            work.attempts, work.fence = work.attempts + 1, work.fence + 1
            work.status, work.leased, work.held = "running", True, True
            assert (claim.attempt, claim.fence) == (work.attempts, work.fence)
            self.claims[ident] = claim
            self.solved.pop(ident, None)

    def ends_of(self, ident: str) -> type[LedgerError] | None:
        """What a claim's holder is told once it has lost the job."""
        work = self.model.work(ident)
        if work.held and self.claims[ident].fence == work.fence:
            return None
        return JobCancelled if work.status == "cancelled" else LeaseLost

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def solve(self, data: st.DataObject) -> None:
        self.solve_one(self.pick(data, self.claims))

    def solve_one(self, ident: str) -> None:
        own = self.model.sets.get(ident)
        refused = None
        if own is not None and own.on_conflict == "reject" and self.model.conflicts(own.facts):
            refused = FactConflict
        with expecting(self.ends_of(ident), refused):
            self.solved[ident] = self.bench.solve(self.ledger.run(ledger_commit.load, self.claims[ident]))
            self.ledger.run(jobs.verifying, self.claims[ident])
            self.model.work(ident).status = "verifying"

    @precondition(lambda self: self.solved)
    @rule(data=st.data(), gate_met=st.booleans())
    def commit(self, data: st.DataObject, gate_met: bool) -> None:
        self.commit_one(self.pick(data, self.solved), gate_met)

    def commit_one(self, ident: str, gate_met: bool) -> None:
        gate_met = gate_met or ident in self.model.withdrawals
        own = self.model.sets.get(ident)
        if own is not None and own.dry_run:
            self.try_one(ident)
            return
        new = NewVersion(**{**vars(self.solved[ident]), "gate_met": gate_met})
        with expecting(self.ends_of(ident), self.moved(new)):
            made = self.ledger.run(ledger_commit.commit, self.claims[ident], new)
            apply = self.model.withdraw if ident in self.model.withdrawals else None
            number = apply(ident) if apply else self.model.apply(ident, gate_met)
            assert made.number == number
            again = self.ledger.run(ledger_commit.commit, self.claims[ident], new)
            assert again.number == number, "the reply was lost, and the same claim asked again"
            del self.solved[ident], self.claims[ident]

    def try_one(self, ident: str) -> None:
        """A dry run ends with a report, and cannot make a version."""
        claim, new = self.claims[ident], self.solved[ident]
        ends = self.ends_of(ident)
        with expecting(ends, InconsistentVersion if self.moved(new) is None else None, HeadMoved):
            self.ledger.run(ledger_commit.commit, claim, new)
        with expecting(ends):
            for _ in range(2):
                done = self.ledger.run(ledger_commit.finish_dry_run, claim, REPORT, new.fact_reports)
                assert (done.status, done.version) == ("verified", None)
            self.model.work(ident).back("verified")
            del self.solved[ident], self.claims[ident]

    def moved(self, new: NewVersion) -> type[LedgerError] | None:
        return None if new.parent_number == self.model.aliases["live"] else HeadMoved

    @precondition(lambda self: self.unfinished())
    @rule(data=st.data(), gate_met=st.booleans())
    def work_to_the_end(self, data: st.DataObject, gate_met: bool) -> None:
        ident = self.pick(data, self.unfinished())
        self.claim_one(ident)
        if ident in self.claims and self.model.work(ident).leased:
            self.solve_one(ident)
        if ident in self.solved and self.solved[ident].parent_number == self.model.aliases["live"]:
            self.commit_one(ident, gate_met)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), counted=st.booleans())
    def release(self, data: st.DataObject, counted: bool) -> None:
        ident = self.pick(data, self.claims)
        with expecting(self.ends_of(ident)):
            self.ledger.run(jobs.release, self.claims[ident], counted=counted)
            work = self.model.work(ident)
            work.attempts -= not counted
            work.back("queued")

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        ident = self.pick(data, self.claims)
        with expecting(self.ends_of(ident)):
            self.ledger.run(jobs.fail, self.claims[ident], {"type": "urn:errata:problem:core-error"})
            self.model.work(ident).back("failed")

    @precondition(lambda self: any(self.model.work(ident).leased for ident in self.claims))
    @rule(data=st.data())
    def lose_lease(self, data: st.DataObject) -> None:
        """A worker hangs until its lease is over; another may take the job, and the first one wakes up."""
        ident = self.pick(data, [ident for ident in self.claims if self.model.work(ident).leased])
        job = self.bench.job_of(ident)
        with self.ledger.engine.begin() as connection:
            past = text("UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE id = :job")
            connection.execute(past, {"job": job})
        self.model.work(ident).leased = False
        if data.draw(st.booleans()):
            self.stale.append((ident, self.claims[ident]))
            self.claim_one(ident)

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def wake_up(self, data: st.DataObject) -> None:
        """A worker whose job was taken over tries to go on."""
        ident, claim = self.stale[data.draw(st.integers(0, len(self.stale) - 1))]
        if claim.fence == self.model.work(ident).fence:
            return
        for attempt in (jobs.verifying, jobs.release, ledger_commit.load):
            with expecting(LeaseLost):
                self.ledger.run(attempt, claim)

    # administrators

    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.model.versions) - 1))
        with expecting(None if self.model.versions[number].gate_met else GateNotMet):
            made = self.ledger.run(ledger_aliases.roll_back, "tiny", number, "r", self.bench.key)
            assert made.number == self.model.roll_back(number)

    @rule(data=st.data(), name=st.sampled_from(("live", "stable")), force=st.booleans())
    def point_alias(self, data: st.DataObject, name: str, force: bool) -> None:
        number = data.draw(st.integers(0, len(self.model.versions) - 1))
        refused: type[LedgerError] | None = None
        if name == "live" and not force:
            if not self.model.versions[number].gate_met:
                refused = GateNotMet
            elif not self.model.related(number):
                refused = StaleParent
        with expecting(refused):
            self.ledger.run(
                ledger_aliases.set_alias, "tiny", name, number, self.bench.key, force=force, reason="r"
            )
            self.model.point(name, number)

    @precondition(lambda self: self.model.sets)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        sets = data.draw(st.frozensets(st.sampled_from(sorted(self.model.sets)), max_size=2))
        places = [(i, n) for i, own in self.model.sets.items() for n in range(len(own.facts))]
        facts = data.draw(st.frozensets(st.sampled_from(places), min_size=not sets, max_size=2))
        held = self.model.held(self.model.live.members)
        away = not sets <= self.model.live.members.keys() or not facts <= held
        with expecting(NotLive if away else None):
            idents = [f"{ident}.{position}" for ident, position in facts]
            asked = self.ledger.run(withdrawals.request, "tiny", sorted(sets), idents, "r", self.bench.key)
            self.model.withdrawals[asked.id] = model.Withdrawal(sets, facts)

    @rule()
    def expire(self) -> None:
        """Whoever reconciles withdraws what has expired, once."""
        busy = any(
            each.expiry and (each.work.open or each.work.status == "failed")
            for each in self.model.withdrawals.values()
        )
        wanted = frozenset() if busy else self.model.expired()
        made, self.looked = self.ledger.run(expiry.withdraw, "tiny", self.looked)
        assert (made is not None) == bool(wanted)
        if made is not None:
            assert set(made.fact_ids) == {f"{ident}.{position}" for ident, position in wanted}
            self.model.withdrawals[made.id] = model.Withdrawal(frozenset(), wanted, expiry=True)

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.open()
        self.bench = Bench(self.ledger, self.bench.key)

    # what must hold

    @invariant()
    def heads_agree(self) -> None:
        """Aliases, the newest version, its place in the chain, statuses and live facts are the model's."""
        if not hasattr(self, "model"):
            return
        seen = self.look.execute(LOOK).fetchone()
        assert seen is not None
        aliases, statuses, members, newest, linked = seen
        assert aliases == self.model.aliases
        assert statuses == {ident: own.work.status for ident, own in self.model.sets.items()}
        left_out = {ident: frozenset(gone) for ident, gone in (members or {}).items()}
        assert self.model.held(left_out) == self.model.facts(self.model.live.members)
        assert newest == len(self.model.versions) - 1
        assert linked

    def check_version(self, found: Any) -> None:
        wanted = self.model.versions[found.number]
        assert (found.kind, found.parent, found.restores) == (wanted.kind, wanted.parent, wanted.restores)
        assert found.gate_met == wanted.gate_met
        members = self.bench.members(found)
        assert {m.edit_set_id: frozenset(m.withdrawn) for m in members} == wanted.members
        assert found.edit_set_count == len(members)
        assert found.live_fact_count == len(self.model.facts(wanted.members))

    def everything_agrees(self) -> None:
        """At the end: every version, every fact with its links, every withdrawal, and the whole chain."""
        for version in self.ledger.run(versions.list_all, "tiny", 500).items:
            self.check_version(version)
        live = self.model.live.members
        held, facts = self.model.held(live), self.model.facts(live)
        for ident, own in self.model.sets.items():
            assert self.ledger.run(edit_sets.get, ident).version == own.version
            for fact in self.ledger.run(ledger_facts.list_of, ident).items:
                place = (ident, fact.position)
                assert fact.live == (place in facts)
                newer = self.model.newer(place, held) if place in held else set()
                assert set(fact.superseded_by) == {f"{i}.{n}" for i, n in newer}
                older = {other for other in held if place in held and place in self.model.newer(other, held)}
                assert set(fact.supersedes) == {f"{i}.{n}" for i, n in older}
        for ident, withdrawal in self.model.withdrawals.items():
            assert self.ledger.run(withdrawals.get, ident).status == withdrawal.work.status
        assert self.ledger.verify().problems == ()


def plain(url: str) -> str:
    return url.replace("+psycopg", "")


@pytest.mark.parametrize(
    "runs", [5, pytest.param(20, marks=pytest.mark.stack), pytest.param(500, marks=pytest.mark.slow)]
)
def test_the_ledger_is_its_model(postgres_server: Postgres, runs: int) -> None:
    with postgres_server.database() as url, psycopg.connect(plain(as_owner(url)), autocommit=True) as look:
        machine = type("Machine", (LedgerMachine,), {"url": url, "look": look})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=runs,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )

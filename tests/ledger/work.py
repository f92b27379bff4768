"""What the tests of the ledger do over and over: facts, models, and a worker's steps without a model."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import NullPool, create_engine

from ledger import Ledger
from ledger.edits import edit_sets as ledger_edit_sets
from ledger.edits import facts as ledger_facts
from ledger.edits import withdrawals
from ledger.jobs import commit, jobs
from ledger.models import models, ready
from ledger.records import (
    Claim,
    FactReport,
    JobInput,
    KeyRecord,
    Member,
    NewVersion,
    VersionRecord,
)
from ledger.versions import versions
from tests.servers import OWNER

INFO: dict[str, Any] = {
    "architecture": "LlamaForCausalLM",
    "context_length": 2048,
    "modules": ["model.layers.4.mlp.down_proj"],
    "digest": "sha256:" + "0" * 64,
}
REPORT = {"edit_success": 1.0, "locality": 0.97, "perplexity_ratio": 1.003, "generalisation": None}
numbers = itertools.count(1)


def facts(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"The capital of country {n} is",
            "target": f"City {n}",
            "subject": f"country {n}",
            "rephrasings": [f"Country {n}'s capital city is"],
            "locality": [{"prompt": "The capital of New Zealand is"}],
        }
        for n in range(first, first + count)
    ]


@dataclass(frozen=True)
class Bench:
    """A ledger with one ready model, and a key."""

    ledger: Ledger
    key: KeyRecord
    model: str = "tiny"

    def rows(self, query: str) -> list[Any]:
        with self.ledger.engine.connect() as connection:
            return list(connection.exec_driver_sql(query))

    def execute(self, *statements: str) -> None:
        """Run statements as the owner of the tables."""
        owner = create_engine(self.ledger.engine.url.set(username=OWNER), poolclass=NullPool)
        with owner.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def post(self, count: int = 2, **options: Any) -> str:
        """Accept an edit set of facts about nothing that came before, and return its id."""
        asked = facts(count, 1000 * next(numbers))
        return self.ledger.run(ledger_edit_sets.accept, self.model, asked, actor=self.key, **options)[0].id

    def correct(self, older: str, position: int = 0) -> str:
        """Accept an edit set that answers anew what one fact of another does, and return its id."""
        fact = self.ledger.run(ledger_facts.list_of, older).items[position]
        asked = {"prompt": fact.prompt, "target": f"New {fact.target}", "subject": fact.subject}
        return self.ledger.run(ledger_edit_sets.accept, self.model, [asked], actor=self.key)[0].id

    def job_of(self, ident: str) -> str:
        if ident.startswith("wd_"):
            return self.ledger.run(withdrawals.get, ident).job_id
        return self.ledger.run(ledger_edit_sets.get, ident).job_id

    def claim(self, ident: str, holder: str = "w1", lease_s: float = 30.0) -> Claim:
        claim = self.ledger.run(jobs.claim, self.job_of(ident), holder, lease_s)
        assert claim is not None
        return claim

    def solve(self, job: JobInput, *, gate_met: bool = True) -> NewVersion:
        """Stand in for the worker's arithmetic: blobs of the right kinds, and the right members."""
        statistics = None
        if job.edit_set is not None:
            statistics = self.ledger.blobs.put(f"statistics of {job.edit_set.id}".encode())
        members = changed(self.ledger, job, statistics or "")
        delta = self.ledger.blobs.put(repr(members).encode()) if members else None
        return NewVersion(
            kind=job.claim.kind,
            parent_number=job.live.number,
            statistics_digest=statistics,
            delta_digest=delta,
            weights_digest=f"weights of {delta}",
            report=REPORT,
            gate_met=gate_met,
            fact_reports=tuple(
                FactReport(fact.edit_set_id, fact.position, {"edit_success": 1.0, "n": fact.position})
                for fact in job.facts
            ),
        )

    def finish(self, ident: str, *, gate_met: bool = True) -> VersionRecord:
        """Claim, solve, verify and commit an accepted edit set or withdrawal."""
        claim = self.claim(ident)
        new = self.solve(self.ledger.run(commit.load, claim), gate_met=gate_met)
        self.ledger.run(jobs.verifying, claim)
        return self.ledger.run(commit.commit, claim, new)

    def edit(self, count: int = 2, **options: Any) -> tuple[str, VersionRecord]:
        """Post an edit set and apply it."""
        ident = self.post(count, **options)
        return ident, self.finish(ident)

    def try_out(self, count: int = 2) -> str:
        """Post an edit set that is only to be tried, and report on it."""
        ident = self.post(count, dry_run=True)
        claim = self.claim(ident)
        facts = self.ledger.run(commit.load, claim).facts
        reports = [FactReport(fact.edit_set_id, fact.position, {"n": fact.position}) for fact in facts]
        self.ledger.run(commit.finish_dry_run, claim, REPORT, reports)
        return ident

    def status(self, ident: str) -> str:
        if ident.startswith("wd_"):
            return self.ledger.run(withdrawals.get, ident).status
        return self.ledger.run(ledger_edit_sets.get, ident).status

    def members(self, version: VersionRecord) -> tuple[Member, ...]:
        return tuple(sorted(self.ledger.run(versions.members_of, version.model_id, version.number).values()))

    def edit_sets(self, version: VersionRecord) -> tuple[str, ...]:
        return tuple(member.edit_set_id for member in self.members(version))


def changed(ledger: Ledger, job: JobInput, statistics_digest: str) -> tuple[Member, ...]:
    """The members of the version that a job is to make."""
    wanted = {**ledger.run(versions.members_of, job.live.model_id, job.live.number), **job.change}
    if job.edit_set is not None:
        own = wanted[job.edit_set.id]
        assert own is not None
        wanted[job.edit_set.id] = replace(own, statistics_digest=statistics_digest)
    return tuple(sorted(member for member in wanted.values() if member is not None))


def ready_model(
    ledger: Ledger, model: str = "tiny", *, info: dict[str, Any] = INFO, source: str | None = None
) -> None:
    """Register a model and complete it."""
    ledger.run(models.register, model, source or f"/models/{model}", None, info, actor="system")
    ledger.run(
        ready.mark_ready,
        model,
        b"editor",
        {"name": "untrained"},
        {"prompts": []},
        "sha256:base",
        actor="worker",
    )

"""From the members of a version to its weights: statistics are read, composed, and stored as a delta."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ledger import Ledger
from ledger.edits import facts as ledger_facts
from ledger.records import FactRecord, JobInput, Member
from ledger.versions import members as ledger_members
from malmen_core.editing.compose import Composer, Composition, SetId, StatisticsReader
from malmen_core.editing.gauss_newton import Progress
from malmen_core.editing.statistics import Statistics
from malmen_core.facts import Fact, probes_from_json
from malmen_core.models.base import BaseModel
from malmen_core.models.overlay import Version
from worker.lease import Lease
from worker.patience import insist
from worker.resident import Resident

FactsAt = Callable[[Sequence[tuple[str, int]]], Sequence[FactRecord]]
"""Gives facts by edit set and position, in that order."""


@dataclass(frozen=True)
class Desk:
    """What the work needs besides the job.

    Attributes:
        ledger: the ledger.
        resident: the loaded model.
        members: of the version that the last job was done on.
    """

    ledger: Ledger
    resident: Resident
    members: KnownMembers = field(default_factory=lambda: KnownMembers())

    @cached_property
    def composer(self) -> Composer:
        """Solves for the live sets, of which it keeps what it needs between jobs."""
        return Composer(self.resident.base, self.resident.editor)


@dataclass
class KnownMembers:
    """The members of a version, kept so that the next is known from what changed since."""

    number: int | None = None
    held: dict[str, Member] = field(default_factory=dict)

    def of(self, ledger: Ledger, job: JobInput, statistics_digest: str | None) -> tuple[Member, ...]:
        """Return the members of the version that a job is to make, in no order.

        Args:
            ledger: asked for what changed since the last time.
            job: says which version they differ from, and how.
            statistics_digest: of the edit set's own statistics; None if the job has none.
        """
        changes = ledger.run(ledger_members.changes, job.live.model_id, self.number, job.live.number)
        self.held = _changed(self.held, changes)
        self.number = job.live.number
        wanted = _changed(self.held, job.change)
        if job.edit_set is not None and statistics_digest is not None:
            wanted[job.edit_set.id] = replace(wanted[job.edit_set.id], statistics_digest=statistics_digest)
        return tuple(wanted.values())


def _changed(held: Mapping[str, Member], change: Mapping[str, Member | None]) -> dict[str, Member]:
    """Return members with a change."""
    return {ident: member for ident, member in {**held, **change}.items() if member is not None}


@dataclass(frozen=True)
class Candidate:
    """A solved version that is not verified yet.

    Attributes:
        version: the overlay.
        delta_digest: digest of its stored delta; None for the empty one.
        repaired: how many facts the sum did not hold, and were moved.
    """

    version: Version
    delta_digest: str | None
    repaired: int


def compose(
    desk: Desk, lease: Lease, members: Sequence[Member], known: Mapping[str, Statistics]
) -> Candidate:
    """Solve for all members together; no facts at all give the base itself.

    Args:
        desk: ledger and model.
        lease: the claim, to which progress is told.
        members: of the version to be.
        known: statistics that need not be read, by digest.
    """

    def read_statistics(digest: str) -> Statistics:
        if digest in known:
            return known[digest]
        return Statistics.from_bytes(insist(lease, lambda: desk.ledger.blobs.get(digest)))

    def facts_at(places: Sequence[tuple[str, int]]) -> Sequence[FactRecord]:
        return insist(lease, lambda: desk.ledger.run(ledger_facts.at, places))

    made = solve(desk.composer, members, read_statistics, facts_at, lease.progress)
    version = desk.resident.base.version(made.delta)
    lease.check()
    digest = store(desk, lease, made.delta.to_bytes()) if made.delta.modules else None
    return Candidate(version, digest, sum(len(facts) for facts in made.repaired.values()))


def solve(
    composer: Composer,
    members: Sequence[Member],
    read_statistics: StatisticsReader,
    facts_at: FactsAt,
    progress: Progress | None = None,
) -> Composition:
    """Compose what a version's members hold; it follows from them, the editor and the base alone.

    Args:
        composer: of the version's base and editor.
        members: of the version.
        read_statistics: gives statistics by digest.
        facts_at: gives the facts that may need repair.
        progress: as `Composer.compose` has it; may raise to abort.
    """
    owners = {(member.statistics_digest, member.left_out): member.edit_set_id for member in members}
    wanted = {(m.statistics_digest, m.left_out): m.edited_on_rephrasings for m in members}

    def read_facts(asked: Mapping[SetId, Sequence[int]]) -> dict[SetId, list[Fact]]:
        records = iter(facts_at([(owners[ident], fact) for ident, facts in asked.items() for fact in facts]))
        return {
            ident: [to_fact(next(records), composer.base) for _ in facts] for ident, facts in asked.items()
        }

    return composer.compose(wanted, read_statistics, read_facts, progress)


def store(desk: Desk, lease: Lease, data: bytes) -> str:
    """Put bytes into the blob store, and return their digest."""
    return insist(lease, lambda: desk.ledger.blobs.put(data))


def to_fact(record: FactRecord, base: BaseModel) -> Fact:
    """Turn a stored fact into the core's, with conversations as the model's chat template puts them."""
    probes = probes_from_json(record.locality, base.chat_text)
    return Fact(
        record.prompt,
        record.target,
        record.subject,
        tuple(record.rephrasings),
        probes,
        record.question,
        record.joiner,
    )

"""The work of a job: from facts to a verified version, committed once.

Statistics are taken on the base alone, so a set's own never depend on what else is live. Only solving and
verifying do, and they are done again when the live version moved in the meantime.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ledger import Ledger
from ledger.errors import HeadMoved
from ledger.records import FactRecord, FactReport, JobInput, Member, NewVersion, VersionRecord
from malmen_core.edit import compute_statistics
from malmen_core.facts import Fact, Probe
from malmen_core.overlay import Version
from malmen_core.statistics import Statistics
from malmen_core.verify import verify
from worker import faults
from worker.composing import compose
from worker.gate import finite, judge
from worker.lease import Lease
from worker.patience import insist
from worker.resident import Resident
from worker.superseding import Prompts, supersede

logger = logging.getLogger(__name__)

PAGE = 500


@dataclass(frozen=True)
class Desk:
    """What the work needs besides the job.

    Attributes:
        ledger: the ledger.
        resident: the loaded model.
        prompts: what the facts of live edit sets ask.
    """

    ledger: Ledger
    resident: Resident
    prompts: Prompts

    @classmethod
    def open(cls, ledger: Ledger, resident: Resident) -> Desk:
        """Make a desk with nothing read yet."""
        return cls(ledger, resident, Prompts(lambda ident: (fact.prompt for fact in _facts(ledger, ident))))


@dataclass(frozen=True)
class Candidate:
    """A solved version that is not verified yet.

    Attributes:
        version: the overlay.
        delta_digest: digest of its stored delta; None for the empty one.
    """

    version: Version
    delta_digest: str | None


def perform(desk: Desk, lease: Lease) -> VersionRecord:
    """Do a claimed job to its end.

    Returns:
        the committed version, live or not.

    Raises:
        LedgerError: the claim was lost or cancelled, or a stored blob cannot be used.
        CoreError: the facts cannot be edited.
        WorkerStopping: the worker was asked to stop; nothing was committed.
    """
    job = insist(lease, lambda: desk.ledger.load_job(lease.claim))
    faults.point("after_claim", _subject(job))
    return _edit(desk, lease, job) if job.edit_set is not None else _withdraw(desk, lease, job)


def _edit(desk: Desk, lease: Lease, job: JobInput) -> VersionRecord:
    assert job.edit_set is not None
    facts = [to_fact(record) for record in job.facts]
    own = compute_statistics(
        desk.resident.base,
        desk.resident.editor,
        facts,
        edit_on_rephrasings=job.edit_set.edit_on_rephrasings,
        progress=lease.stage("editing"),
    )
    own_digest = _store(desk, lease, own.to_bytes())
    faults.point("after_statistics", _subject(job))
    own_member = Member(job.edit_set.id, own_digest)
    positions = [(job.edit_set.id, record.position) for record in job.facts]
    while True:
        members = tuple(sorted((*_kept_members(desk, lease, job, facts), own_member)))
        candidate = _solve(desk, lease, members, {own_digest: own})
        faults.point("after_solve", _subject(job))
        try:
            return _verify_and_commit(
                desk, lease, job, members, candidate, facts, positions, statistics_digest=own_digest
            )
        except HeadMoved as moved:
            logger.info("Job %s solves again: %s", lease.claim.job_id, moved)
            job = insist(lease, lambda: desk.ledger.load_job(lease.claim))


def _withdraw(desk: Desk, lease: Lease, job: JobInput) -> VersionRecord:
    while True:
        members = tuple(sorted(job.members))
        candidate = _solve(desk, lease, members, {})
        faults.point("after_solve", _subject(job))
        remaining = insist(lease, partial(_remaining, desk, members))
        facts = [to_fact(record) for record in remaining]
        positions = [(record.edit_set_id, record.position) for record in remaining]
        try:
            return _verify_and_commit(
                desk, lease, job, members, candidate, facts, positions, statistics_digest=None
            )
        except HeadMoved as moved:
            logger.info("Job %s solves again: %s", lease.claim.job_id, moved)
            job = insist(lease, lambda: desk.ledger.load_job(lease.claim))


def _solve(desk: Desk, lease: Lease, members: Sequence[Member], known: dict[str, Statistics]) -> Candidate:
    """Solve for all members together; an empty list gives the base itself."""

    def statistics_of(digest: str) -> Statistics:
        found = known.get(digest)
        return Statistics.from_bytes(_fetch(desk, lease, digest)) if found is None else found

    delta = compose(desk.resident.editor, members, statistics_of, lease.progress)
    version = desk.resident.base.version(delta)
    lease.check()
    digest = _store(desk, lease, delta.to_bytes()) if delta.modules else None
    return Candidate(version, digest)


def _verify_and_commit(
    desk: Desk,
    lease: Lease,
    job: JobInput,
    members: tuple[Member, ...],
    candidate: Candidate,
    facts: Sequence[Fact],
    positions: Sequence[tuple[str, int]],
    *,
    statistics_digest: str | None,
) -> VersionRecord:
    """Measure a candidate on the real model, hold it against the gate, and commit it with its report.

    A withdrawal is an administrator's order: it is measured, and goes live whatever the measures are.
    """
    insist(lease, lambda: desk.ledger.verifying(lease.claim))
    resident = desk.resident
    measured = verify(resident.base, candidate.version, facts, resident.canaries, lease.stage("verifying"))
    misses = judge(measured.summary, job.gate) if job.edit_set is not None else ()
    report = {**measured.summary, "gate": dict(job.gate), "gate_misses": [asdict(miss) for miss in misses]}
    new = NewVersion(
        kind=lease.claim.kind,
        parent_number=job.live.number,
        members=members,
        statistics_digest=statistics_digest,
        delta_digest=candidate.delta_digest,
        weights_digest=candidate.version.weights_digest,
        report=finite(report),
        gate_met=not misses,
        fact_reports=tuple(
            FactReport(edit_set, position, finite(fact_report))
            for (edit_set, position), fact_report in zip(positions, measured.facts, strict=True)
        ),
    )
    lease.progress("committing", 0, 1)
    faults.point("before_commit", _subject(job))
    version = insist(lease, lambda: desk.ledger.commit_version(lease.claim, new))
    faults.point("after_commit", _subject(job))
    resident.keep(candidate.delta_digest, candidate.version)
    return version


def _kept_members(desk: Desk, lease: Lease, job: JobInput, facts: Sequence[Fact]) -> tuple[Member, ...]:
    """Return the live members without the facts that these facts ask again."""
    return insist(lease, lambda: supersede(job.members, desk.prompts, [fact.prompt for fact in facts]))


def _remaining(desk: Desk, members: Sequence[Member]) -> list[FactRecord]:
    """Return the facts of some members that are not withdrawn."""
    return [
        fact
        for member in members
        for fact in _facts(desk.ledger, member.edit_set_id)
        if fact.position not in member.withdrawn
    ]


def _facts(ledger: Ledger, edit_set_id: str) -> Iterator[FactRecord]:
    cursor: str | None = None
    while True:
        page = ledger.get_facts(edit_set_id, PAGE, cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def to_fact(record: FactRecord) -> Fact:
    """Turn a stored fact into the core's."""
    probes = tuple(Probe(str(probe["prompt"]), probe.get("target")) for probe in record.locality)
    return Fact(record.prompt, record.target, record.subject, tuple(record.rephrasings), probes)


def _store(desk: Desk, lease: Lease, data: bytes) -> str:
    return insist(lease, lambda: desk.ledger.blobs.put(data))


def _fetch(desk: Desk, lease: Lease, digest: str) -> bytes:
    return insist(lease, lambda: desk.ledger.blobs.get(digest))


def _subject(job: JobInput) -> str:
    """Name a job for the fault points: its edit set and note."""
    fields: list[Any] = [job.claim.job_id, job.claim.holder]
    if job.edit_set is not None:
        fields += [job.edit_set.id, job.edit_set.note or ""]
    return " ".join(str(field) for field in fields)

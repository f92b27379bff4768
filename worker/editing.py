"""The work of a job: from facts to a verified version, committed once.

Statistics are taken on the base alone, so a set's own never depend on what else is live. Only solving and
verifying do, and they are done again when the live version moved in the meantime.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ledger import Ledger
from ledger.errors import HeadMoved
from ledger.records import FactRecord, FactReport, JobInput, Member, NewVersion, VersionRecord
from malmen_core.delta import Delta
from malmen_core.edit import compute_statistics, solve
from malmen_core.facts import Fact, Probe
from malmen_core.overlay import Version
from malmen_core.statistics import Statistics
from malmen_core.verify import verify
from worker import faults
from worker.gate import finite, judge
from worker.lease import Lease
from worker.patience import insist
from worker.resident import Resident

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Desk:
    """What the work needs besides the job.

    Attributes:
        ledger: the ledger.
        resident: the loaded model.
    """

    ledger: Ledger
    resident: Resident


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
    positions = [(job.edit_set.id, record.position) for record in job.facts]
    while True:
        own_member = Member(job.edit_set.id, own_digest, (), job.own_superseded)
        members = tuple(sorted((*job.members, own_member)))
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
        remaining = insist(lease, partial(desk.ledger.facts_of, members))
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
    lease.progress("solving", 0, len(members))
    parts: list[Statistics] = []
    for number, member in enumerate(members, start=1):
        statistics = known.get(member.statistics_digest)
        if statistics is None:
            statistics = Statistics.from_bytes(_fetch(desk, lease, member.statistics_digest))
        parts.append(statistics.without(member.left_out) if member.left_out else statistics)
        lease.progress("solving", number, len(members))
    delta = solve(desk.resident.editor, Statistics.sum(parts)) if parts else Delta.empty()
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
    replaced = [{"fact": own, "supersedes": older} for older, own in job.supersedes]
    report = {
        **measured.summary,
        "gate": dict(job.gate),
        "gate_misses": [asdict(miss) for miss in misses],
        "superseded": replaced,
    }
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

"""The work of a job: from facts to a verified version, committed once.

Statistics are taken on the base alone, so a set's own never depend on what else is live, and several workers
take them side by side. Composing and verifying do depend on it: one job of a model does them at a time, up to
its commit, and does them again if an administrator moved the live version in the meantime.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from ledger.errors import HeadMoved, SolveLocked
from ledger.jobs import commit, jobs
from ledger.records import EditSetRecord, JobInput, Member, NewVersion, VersionRecord
from malmen_core.editing.edit import edit
from malmen_core.editing.outcome import EditOutcome
from malmen_core.editing.statistics import Statistics
from worker import faults
from worker.composing import Candidate, Desk, compose, store, to_fact
from worker.lease import Lease
from worker.measuring import measure
from worker.patience import insist

logger = logging.getLogger(__name__)

LOCK_POLL_S = 0.3
"""Between two looks whether another job still solves."""


def perform(desk: Desk, lease: Lease, live_facts: int) -> VersionRecord | EditSetRecord:
    """Do a claimed job to its end.

    Args:
        desk: ledger and loaded model.
        lease: the claim.
        live_facts: most live facts besides its own that a version is measured on.

    Returns:
        the committed version, live or not; or the edit set, if it was only to be tried.

    Raises:
        LedgerError: the claim was lost or cancelled, or a stored blob cannot be used.
        CoreError: the facts cannot be edited.
        WorkerStopping: the worker was asked to stop; nothing was committed.
    """
    job = insist(lease, lambda: desk.ledger.run(commit.load, lease.claim))
    faults.point("after_claim", _subject(job))
    own, outcomes = _edit(desk, lease, job)
    while True:
        job = _begin_solving(desk, lease, job)
        members = _members(desk, lease, job, own)
        candidate = compose(desk, lease, members, own)
        faults.point("after_solve", _subject(job))
        try:
            return _verify_and_commit(desk, lease, job, members, candidate, live_facts, outcomes)
        except HeadMoved as moved:
            logger.info("Job %s solves again: %s", lease.claim.job_id, moved)


def _begin_solving(desk: Desk, lease: Lease, job: JobInput) -> JobInput:
    """Return what the job starts from now, once no other job solves; a dry run does not wait."""
    if job.edit_set is not None and job.edit_set.dry_run:
        return job
    lease.waiting = True
    try:
        while True:
            try:
                return insist(lease, lambda: desk.ledger.run(commit.load, lease.claim, to_solve=True))
            except SolveLocked as locked:
                logger.debug("%s", locked)
            time.sleep(LOCK_POLL_S)
            lease.progress("waiting", 0, 1)
    finally:
        lease.waiting = False


def _edit(desk: Desk, lease: Lease, job: JobInput) -> tuple[dict[str, Statistics], Mapping[int, EditOutcome]]:
    """A job's own statistics, stored, by digest, and what became of each fact, by position; or nothing."""
    if job.edit_set is None:
        return {}, {}
    made = edit(
        desk.resident.base,
        desk.resident.editor,
        [to_fact(record, desk.resident.base) for record in job.facts],
        edit_on_rephrasings=job.edit_set.edit_on_rephrasings,
        progress=lease.stage("editing"),
    )
    digest = store(desk, lease, made.statistics.to_bytes())
    faults.point("after_statistics", _subject(job))
    positions = [record.position for record in job.facts]
    return {digest: made.statistics}, dict(zip(positions, made.outcomes, strict=True))


def _members(desk: Desk, lease: Lease, job: JobInput, own: Mapping[str, Statistics]) -> tuple[Member, ...]:
    """Return the members of the version that the job is to make."""
    return insist(lease, lambda: desk.members.of(desk.ledger, job, next(iter(own), None)))


def _verify_and_commit(
    desk: Desk,
    lease: Lease,
    job: JobInput,
    members: tuple[Member, ...],
    candidate: Candidate,
    live_facts: int,
    outcomes: Mapping[int, EditOutcome],
) -> VersionRecord | EditSetRecord:
    """Measure a candidate on the real model, and commit it with its report, or that alone of a dry run."""
    insist(lease, lambda: desk.ledger.run(jobs.verifying, lease.claim))
    measured = measure(desk, lease, job, members, candidate, live_facts, outcomes)
    if job.edit_set is not None and job.edit_set.dry_run:
        return insist(
            lease,
            lambda: desk.ledger.run(commit.finish_dry_run, lease.claim, measured.report, measured.facts),
        )
    own = next((m for m in members if job.edit_set is not None and m.edit_set_id == job.edit_set.id), None)
    new = NewVersion(
        kind=lease.claim.kind,
        parent_number=job.live.number,
        statistics_digest=None if own is None else own.statistics_digest,
        delta_digest=candidate.delta_digest,
        weights_digest=candidate.version.weights_digest,
        report=measured.report,
        gate_met=measured.gate_met,
        fact_reports=measured.facts,
    )
    lease.progress("committing", 0, 1)
    faults.point("before_commit", _subject(job))
    version = insist(lease, lambda: desk.ledger.run(commit.commit, lease.claim, new))
    faults.point("after_commit", _subject(job))
    desk.resident.keep(candidate.delta_digest, candidate.version)
    return version


def _subject(job: JobInput) -> str:
    """Name a job for the fault points: its edit set and note."""
    fields: list[Any] = [job.claim.job_id, job.claim.holder]
    if job.edit_set is not None:
        fields += [job.edit_set.id, job.edit_set.note or ""]
    return " ".join(str(field) for field in fields)

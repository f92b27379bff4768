"""The work of a job: from facts to a verified version, committed once.

Statistics are taken on the base alone, so a set's own never depend on what else is live. Only composing and
verifying do, and they are done again when the live version moved in the meantime.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from ledger.errors import HeadMoved, NotItsTurn
from ledger.records import EditSetRecord, JobInput, Member, NewVersion, VersionRecord
from malmen_core.editing.edit import edit
from malmen_core.editing.outcome import Outcome
from malmen_core.editing.statistics import Statistics
from worker import faults
from worker.composing import Candidate, Desk, compose, store, to_fact
from worker.lease import Lease
from worker.measuring import measure
from worker.patience import insist

logger = logging.getLogger(__name__)

TURN_S = 0.5
"""Between two looks whether it is a job's turn to commit."""
LONGEST_TURN_S = 600.0
"""Longer than this nobody waits for another's turn: that worker may hang."""


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
    job = insist(lease, lambda: desk.ledger.load_job(lease.claim))
    faults.point("after_claim", _subject(job))
    own, outcomes = _edit(desk, lease, job)
    while True:
        members = _members(desk, lease, job, own)
        candidate = compose(desk, lease, members, own)
        faults.point("after_solve", _subject(job))
        try:
            return _verify_and_commit(desk, lease, job, members, candidate, live_facts, outcomes)
        except HeadMoved as moved:
            lease.overtaken = True
            logger.info("Job %s solves again: %s", lease.claim.job_id, moved)
            job = insist(lease, lambda: desk.ledger.load_job(lease.claim, overtaken=True))


def _edit(desk: Desk, lease: Lease, job: JobInput) -> tuple[dict[str, Statistics], Mapping[int, Outcome]]:
    """A job's own statistics, stored, by digest, and what became of each fact, by position; or nothing."""
    if job.edit_set is None:
        return {}, {}
    made = edit(
        desk.resident.base,
        desk.resident.editor,
        [to_fact(record) for record in job.facts],
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
    outcomes: Mapping[int, Outcome],
) -> VersionRecord | EditSetRecord:
    """Measure a candidate on the real model, and commit it with its report, or that alone of a dry run."""
    insist(lease, lambda: desk.ledger.verifying(lease.claim))
    measured = measure(desk, lease, job, members, candidate, live_facts, outcomes)
    if job.edit_set is not None and job.edit_set.dry_run:
        return insist(lease, lambda: desk.ledger.conclude_trial(lease.claim, measured.report, measured.facts))
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
    version = _commit(desk, lease, new)
    faults.point("after_commit", _subject(job))
    desk.resident.keep(candidate.delta_digest, candidate.version)
    return version


def _commit(desk: Desk, lease: Lease, new: NewVersion) -> VersionRecord:
    """Commit a version when it is the job's turn, or when whoever has it takes too long."""
    until, told = time.monotonic() + LONGEST_TURN_S, False
    while True:
        in_turn = time.monotonic() < until
        try:
            return insist(lease, partial(desk.ledger.commit_version, lease.claim, new, in_turn=in_turn))
        except NotItsTurn as waits:
            lease.overtaken = True
            if not told:
                logger.info("%s", waits)
            told = True
        time.sleep(TURN_S)
        lease.check()


def _subject(job: JobInput) -> str:
    """Name a job for the fault points: its edit set and note."""
    fields: list[Any] = [job.claim.job_id, job.claim.holder]
    if job.edit_set is not None:
        fields += [job.edit_set.id, job.edit_set.note or ""]
    return " ".join(str(field) for field in fields)

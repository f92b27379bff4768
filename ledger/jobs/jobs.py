"""Jobs: who may work on what, until when. Every change by a worker needs the fence of its claim."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from ledger.auth import audit
from ledger.db.tables import EditSet, Head, Job, Withdrawal
from ledger.errors import IllegalTransition, JobCancelled, LeaseLost, SolveLocked
from ledger.integrity.chain import storable
from ledger.records import Actor, Claim, Json
from ledger.states import LEGAL_TRANSITIONS, EditSetStatus, JobKind

MAX_ATTEMPTS = 3


def subject(session: Session, job: Job) -> EditSet | Withdrawal:
    """Return what a job is about, as it is now."""
    if job.edit_set_id is not None:
        return session.get_one(EditSet, job.edit_set_id, populate_existing=True)
    return session.get_one(Withdrawal, job.withdrawal_id, populate_existing=True)


def name(row: EditSet | Withdrawal) -> str:
    """Return the name of a job's subject in audit events."""
    return f"edits/{row.id}" if isinstance(row, EditSet) else f"withdrawals/{row.id}"


def move(row: EditSet | Withdrawal, status: EditSetStatus) -> None:
    """Change the status of a job's subject; the same status again is no change.

    Raises:
        IllegalTransition: it cannot follow the present one.
    """
    if row.status == status:
        return
    if (row.status, status) not in LEGAL_TRANSITIONS:
        kind = "edit set" if isinstance(row, EditSet) else "withdrawal"
        raise IllegalTransition(kind, row.id, row.status, status)
    row.status = status


def _back_to_queue(session: Session, row: EditSet | Withdrawal) -> None:
    move(row, "queued")
    session.flush()  # each step is a change that the trigger sees


def finish(session: Session, job: Job, row: EditSet | Withdrawal) -> None:
    """Mark a job and its subject as finished, whatever came of it."""
    job.finished_at = row.finished_at = session.scalar(select(func.clock_timestamp()))
    job.lease_expires_at = None
    session.flush()


def lock(session: Session, job_id: str) -> Job | None:
    """Return a job, locked until the transaction ends; None if there is no such job."""
    if not (job_id.isascii() and job_id.isprintable()):
        return None
    return session.get(Job, job_id, with_for_update={"key_share": True}, populate_existing=True)


def held(session: Session, claim: Claim) -> Job:
    """Return the claimed job, locked.

    Raises:
        LeaseLost: the fence moved, the job was given back, or it is finished.
        JobCancelled: it was cancelled under this claim.
    """
    job = lock(session, claim.job_id)
    if job is None or job.fence != claim.fence:
        raise LeaseLost(claim.job_id, claim.fence)
    if job.finished_at is None and job.lease_expires_at is None:
        raise LeaseLost(claim.job_id, claim.fence)
    if job.finished_at is not None:
        if subject(session, job).status == "cancelled":
            raise JobCancelled(claim.job_id)
        raise LeaseLost(claim.job_id, claim.fence)
    return job


def claim(
    session: Session, job_id: str, holder: str, lease_s: float, max_attempts: int = MAX_ATTEMPTS
) -> Claim | None:
    """Take a job for so many seconds, or return None: it is finished, or somebody's lease on it still runs.

    A job that has been tried `max_attempts` times and left unfinished is not tried again: it fails as
    quarantined, so that one bad edit cannot keep killing workers.
    """
    job = lock(session, job_id)
    if job is None or job.finished_at is not None:
        return None
    return _take(session, job, holder, lease_s, max_attempts)


def claim_next(
    session: Session, model_id: str, holder: str, lease_s: float, max_attempts: int = MAX_ATTEMPTS
) -> Claim | None:
    """Take the model's job that has waited longest and that nobody holds, or return None if there is none."""
    now = func.clock_timestamp()
    query = (
        select(Job)
        .where(
            Job.model_id == model_id,
            Job.finished_at.is_(None),
            Job.waiting_since <= now,
            or_(Job.lease_expires_at.is_(None), Job.lease_expires_at <= now),
        )
        .order_by(Job.waiting_since, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    )
    while (job := session.scalar(query)) is not None:
        taken = _take(session, job, holder, lease_s, max_attempts)
        if taken is not None:
            return taken
    return None


def waiting(session: Session) -> dict[str, int]:
    """Return how many jobs nobody holds that are not finished, by model."""
    free = or_(Job.lease_expires_at.is_(None), Job.lease_expires_at <= func.clock_timestamp())
    query = select(Job.model_id, func.count()).where(Job.finished_at.is_(None), free)
    return dict(session.execute(query.group_by(Job.model_id)).all())


def _take(session: Session, job: Job, holder: str, lease_s: float, max_attempts: int) -> Claim | None:
    now = session.scalar(select(func.clock_timestamp()))
    assert now is not None
    if job.lease_expires_at is not None and job.lease_expires_at > now:
        return None
    row = subject(session, job)
    _back_to_queue(session, row)
    if job.attempts >= max_attempts:
        _end(session, job, row, _quarantined(job), "worker")
        return None
    job.fence += 1
    job.attempts += 1
    job.holder = holder
    job.lease_expires_at = now + timedelta(seconds=lease_s)
    job.claimed_at = now
    job.stage, job.stage_done, job.stage_total = None, 0, 0
    move(row, "running")
    session.flush()
    kind: JobKind = "edit" if job.kind == "edit" else "withdraw"
    return Claim(job.id, job.model_id, kind, holder, job.fence, job.attempts)


def _quarantined(job: Job) -> Json:
    detail = (
        f"{job.attempts} attempts ended without a result, the last by {job.holder}. "
        "Read that worker's log, then post smaller or other edit sets."
    )
    return {
        "type": "urn:errata:problem:quarantined",
        "title": "Quarantined",
        "status": 500,
        "detail": detail,
        "code": "quarantined",
    }


def _end(session: Session, job: Job, row: EditSet | Withdrawal, error: Json, actor: Actor) -> None:
    move(row, "failed")
    row.error = storable(error, "/error")
    finish(session, job, row)
    audit.record(session, actor, "job.fail", name(row), {"error": row.error, "attempts": job.attempts})


def renew(session: Session, claim: Claim, lease_s: float) -> None:
    """Extend the lease to so many seconds from now.

    Raises:
        LeaseLost, JobCancelled: as `held` says.
    """
    job = held(session, claim)
    job.lease_expires_at = func.clock_timestamp() + timedelta(seconds=lease_s)


def progress(session: Session, claim: Claim, stage: str, done: int, total: int) -> None:
    """Note how far the work is.

    Raises:
        LeaseLost, JobCancelled: as `held` says.
    """
    job = held(session, claim)
    job.stage, job.stage_done, job.stage_total = stage, done, total


def verifying(session: Session, claim: Claim) -> None:
    """Note that a candidate is being measured; a second candidate after HeadMoved is, too.

    Raises:
        LeaseLost, JobCancelled: as `held` says.
    """
    move(subject(session, held(session, claim)), "verifying")


def begin_solving(session: Session, claim: Claim) -> None:
    """Keep other jobs of the model from solving, until this claim ends; the same claim may ask again.

    Raises:
        LeaseLost, JobCancelled: as `held` says.
        SolveLocked: another job solves.
    """
    job = held(session, claim)
    head = session.get(Head, job.model_id, with_for_update=True, populate_existing=True)
    if head is None or (head.solving_job, head.solving_fence) == (job.id, claim.fence):
        return
    other = session.scalar(
        select(Job.id).where(
            Job.id == head.solving_job,
            Job.fence == head.solving_fence,
            Job.finished_at.is_(None),
            Job.lease_expires_at > func.clock_timestamp(),
        )
    )
    if other is not None:
        raise SolveLocked(job.id, other)
    head.solving_job, head.solving_fence = job.id, claim.fence


def release(session: Session, claim: Claim, *, counted: bool = True, delay_s: float = 0.0) -> None:
    """Give a job back unfinished, to be taken again.

    Args:
        session: the transaction.
        claim: the right to the job, which ends.
        counted: whether this was an attempt, or the job is not to blame.
        delay_s: seconds for which nobody takes it.

    Raises:
        LeaseLost, JobCancelled: as `held` says.
    """
    job = held(session, claim)
    _back_to_queue(session, subject(session, job))
    if not counted:
        job.attempts -= 1
    job.lease_expires_at = None
    job.waiting_since = func.clock_timestamp() + timedelta(seconds=delay_s)


def fail(session: Session, claim: Claim, error: Json) -> None:
    """End a job without a version, and keep why.

    Raises:
        LeaseLost, JobCancelled: as `held` says.
    """
    job = held(session, claim)
    _end(session, job, subject(session, job), error, claim.holder)


def unfinished(session: Session, model_id: str) -> list[str]:
    """Return the ids of a model's edit sets that wait or are worked on, the oldest first."""
    query = select(Job.edit_set_id).where(
        Job.model_id == model_id, Job.finished_at.is_(None), Job.edit_set_id.is_not(None)
    )
    return [str(ident) for ident in session.scalars(query.order_by(Job.id))]


def cancel_all(session: Session, model_id: str, actor: Actor, *, withdrawals: bool = False) -> list[str]:
    """Cancel a model's edit sets that wait or are worked on, withdrawals too if wanted; return their ids."""
    query = select(Job.id).where(Job.model_id == model_id, Job.finished_at.is_(None)).order_by(Job.id)
    if not withdrawals:
        query = query.where(Job.edit_set_id.is_not(None))
    found = [lock(session, ident) for ident in session.scalars(query).all()]
    return [_cancel(session, job, actor).id for job in found if job is not None and job.finished_at is None]


def cancel(session: Session, row: EditSet | Withdrawal, actor: Actor) -> None:
    """Cancel an edit set or a withdrawal that has not been applied; one that is cancelled stays so.

    Raises:
        IllegalTransition: it is finished otherwise.
    """
    ident = session.scalar(select(Job.id).where(or_(Job.edit_set_id == row.id, Job.withdrawal_id == row.id)))
    job = lock(session, ident) if ident else None
    assert job is not None, "what is worked on is accepted with its job"
    if subject(session, job).status != "cancelled":
        _cancel(session, job, actor)


def _cancel(session: Session, job: Job, actor: Actor) -> EditSet | Withdrawal:
    row = subject(session, job)
    move(row, "cancelled")
    finish(session, job, row)
    what = "edit_set" if isinstance(row, EditSet) else "withdrawal"
    audit.record(session, actor, f"{what}.cancel", name(row))
    return row

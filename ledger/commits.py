"""The work of a job: what it starts from, and the one transaction in which its version is committed."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import aliases, audit, edit_sets, facts, jobs, models, named_blobs, versions, withdrawals
from ledger.blobs import Blobs
from ledger.errors import HeadMoved, InconsistentVersion
from ledger.records import Claim, JobInput, Member, NewVersion, VersionRecord
from ledger.tables import EditSet, Job, Version, Withdrawal


def load(session: Session, claim: Claim) -> JobInput:
    """Return all that a worker needs for a job it has claimed, with the live version as it is now.

    Raises:
        LeaseLost, JobCancelled: the claim no longer holds.
        ModelNotReady: the model has no version yet.
    """
    job = jobs.held(session, claim)
    model = models.get(session, job.model_id)
    live = versions.live(session, job.model_id)
    if job.edit_set_id is None:
        withdrawal = withdrawals.get(session, str(job.withdrawal_id))
        members = _remaining(session, live, job)
        return JobInput(claim, model, live, members, model.gate, withdrawal=withdrawal)
    edit_set = edit_sets.get(session, job.edit_set_id)
    return JobInput(
        claim,
        model,
        live,
        live.members,
        {**model.gate, **(edit_set.gate or {})},
        edit_set=edit_set,
        facts=facts.all_of(session, edit_set.id),
    )


def _remaining(session: Session, live: VersionRecord, job: Job) -> tuple[Member, ...]:
    row = session.get_one(Withdrawal, job.withdrawal_id)
    counts = withdrawals.fact_counts(session, live.members)
    return withdrawals.remaining(live.members, counts, row.edit_set_ids, row.fact_ids)


def _check_members(session: Session, job: Job, live: VersionRecord, new: NewVersion) -> None:
    """See that the new members are those of the live version, changed as the job's kind allows."""
    given = {member.edit_set_id: member for member in new.members}
    if len(given) != len(new.members):
        raise InconsistentVersion(job.model_id, "an edit set is named twice")
    if job.edit_set_id is None:
        if tuple(sorted(new.members)) != tuple(sorted(_remaining(session, live, job))):
            raise InconsistentVersion(
                job.model_id, "its members are not the live ones without those withdrawn"
            )
        return
    own = given.pop(job.edit_set_id, None)
    if own is None or own.statistics_digest != new.statistics_digest:
        raise InconsistentVersion(job.model_id, f"{job.edit_set_id} is not in it with its own statistics")
    held = {member.edit_set_id: member for member in live.members}
    for ident, member in given.items():
        before = held.get(ident)
        if before is None or before.statistics_digest != member.statistics_digest:
            raise InconsistentVersion(
                job.model_id, f"{ident} is not in the live version with these statistics"
            )
        if not set(before.withdrawn) <= set(member.withdrawn):
            raise InconsistentVersion(job.model_id, f"facts of {ident} that were withdrawn are back")
    if len(given) < len(held):
        gone = ", ".join(sorted(held.keys() - given.keys()))
        raise InconsistentVersion(job.model_id, f"{gone} went missing; withdraw edit sets, do not drop them")


def _committed(session: Session, claim: Claim) -> VersionRecord | None:
    """Return the version that this very claim committed, if the reply was lost and it asks again."""
    job = jobs.lock(session, claim.job_id)
    if job is None or job.finished_at is None or job.fence != claim.fence:
        return None
    number = session.scalar(
        select(Version.number).where(Version.model_id == job.model_id, Version.job_id == job.id)
    )
    return None if number is None else versions.get(session, job.model_id, number)


def commit(session: Session, store: Blobs, claim: Claim, new: NewVersion) -> VersionRecord:
    """Commit a job's version with all that it names, once, and make it live if it may be.

    An edit set becomes applied if the gate is met and rejected otherwise; a version of an applied set is made
    live unless its promotion is manual. A withdrawal is an administrator's order, and always goes live.

    Raises:
        LeaseLost, JobCancelled: the claim no longer holds.
        HeadMoved: the live version is not the parent any more; solve again.
        InconsistentVersion: the members do not follow from the live version's.
        BlobMissing: a blob that it names is not in the store.
    """
    repeated = _committed(session, claim)
    if repeated is not None:
        return repeated
    job = jobs.held(session, claim)
    if new.kind != job.kind:
        raise InconsistentVersion(job.model_id, f"its kind is {new.kind}, the job's is {job.kind}")
    head = versions.lock_head(session, job.model_id)
    live = versions.live(session, job.model_id)
    if live.number != new.parent_number:
        raise HeadMoved(job.model_id, new.parent_number, live.number)
    _check_members(session, job, live, new)
    named_blobs.record(session, store, new.delta_digest, "delta")
    named_blobs.record(session, store, new.statistics_digest, "statistics")
    row = jobs.subject(session, job)
    jobs.move(row, "verifying")
    session.flush()
    made = versions.append(session, head, _draft(job, row, new))
    promoted = isinstance(row, Withdrawal) or (new.gate_met and row.promote == "auto")
    jobs.move(row, "applied" if isinstance(row, Withdrawal) or new.gate_met else "rejected")
    row.version_number = made.number
    row.report = None if made.report is None else dict(made.report)
    if isinstance(row, EditSet):
        row.statistics_digest = new.statistics_digest
    jobs.finish(session, job, row)
    if promoted:
        aliases.point(session, job.model_id, versions.LIVE, made.number, claim.holder)
    detail = {"subject": jobs.name(row), "hash": made.hash, "live": promoted, "gate_met": new.gate_met}
    place = f"models/{job.model_id}/versions/{made.number}"
    audit.record(session, claim.holder, "version.commit", place, detail)
    return versions.get(session, job.model_id, made.number)


def _draft(job: Job, row: EditSet | Withdrawal, new: NewVersion) -> versions.Draft:
    return versions.Draft(
        kind=new.kind,
        parent=new.parent_number,
        members=new.members,
        delta_digest=new.delta_digest,
        weights_digest=new.weights_digest,
        gate_met=new.gate_met,
        created_by=row.created_by,
        edit_set_id=job.edit_set_id,
        job_id=job.id,
        statistics_digest=new.statistics_digest,
        report=new.report,
        reason=row.reason if isinstance(row, Withdrawal) else None,
        fact_reports=new.fact_reports,
    )

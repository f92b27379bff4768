"""The work of a job: what it starts from, and the one transaction in which its version is committed."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from ledger.auth import audit
from ledger.blobs import refs
from ledger.db.engine import Transaction
from ledger.db.tables import EditSet, Job, TrialReport, Version, Withdrawal
from ledger.edits import conflicts, edit_sets, facts, withdrawals
from ledger.errors import HeadMoved, InconsistentVersion
from ledger.ids import fact_id
from ledger.integrity.chain import storable
from ledger.jobs import jobs
from ledger.models import aliases, models
from ledger.records import (
    Claim,
    EditSetRecord,
    FactReport,
    JobInput,
    Json,
    Member,
    NewVersion,
    VersionRecord,
)
from ledger.versions import versions
from ledger.versions.members import Change


def load(session: Session, claim: Claim, *, to_solve: bool = False) -> JobInput:
    """Return all that a worker needs for a job it has claimed, with the live version as it is now.

    With `to_solve`, other jobs of the model are kept from solving.

    Raises:
        LeaseLost, JobCancelled: the claim no longer holds.
        ModelNotReady: the model has no version yet.
        SolveLocked: it is to be solved, and another job solves.
    """
    if to_solve:
        jobs.begin_solving(session, claim)
    job = jobs.held(session, claim)
    model = models.get(session, job.model_id)
    live = versions.live(session, job.model_id)
    row = jobs.subject(session, job)
    if isinstance(row, Withdrawal):
        change = _change(session, row, live.number, "")[0]
        return JobInput(claim, model, live, change, model.gate, withdrawal=withdrawals.get(session, row.id))
    own_facts = facts.all_of(session, row.id)
    conflicts.link(session, row, own_facts, live.number)
    if row.on_conflict == "reject":
        conflicts.refuse_conflicts(session, job.model_id, [vars(fact) for fact in own_facts])
    change, supersedes = _change(session, row, live.number, "")
    return JobInput(
        claim,
        model,
        live,
        change,
        {**model.gate, **(row.gate or {})},
        edit_set=edit_sets.get(session, row.id),
        facts=own_facts,
        supersedes=supersedes,
    )


def _change(
    session: Session, row: EditSet | Withdrawal, number: int, statistics_digest: str
) -> tuple[Change, tuple[tuple[str, str], ...]]:
    """Return what a job changes in a version's members, and the facts that it replaces, each with its own."""
    if isinstance(row, Withdrawal):
        return conflicts.without(session, row.model_id, number, row.edit_set_ids, row.fact_ids), ()
    own = Member(row.id, statistics_digest, (), (), row.fact_count, row.facts_digest, row.edit_on_rephrasings)
    change, replaced = conflicts.with_own(session, row.model_id, number, own)
    return change, tuple((fact_id(*pair.older), fact_id(*pair.newer)) for pair in replaced)


def _committed(session: Session, claim: Claim) -> VersionRecord | None:
    """Return the version that this very claim committed, if the reply was lost and it asks again."""
    job = jobs.lock(session, claim.job_id)
    if job is None or job.finished_at is None or job.fence != claim.fence:
        return None
    number = session.scalar(
        select(Version.number).where(Version.model_id == job.model_id, Version.job_id == job.id)
    )
    return None if number is None else versions.get(session, job.model_id, number)


def commit(tx: Transaction, claim: Claim, new: NewVersion) -> VersionRecord:
    """Commit a job's version with all that it names, once, and make it live if it may be.

    An edit set becomes applied if the gate is met and rejected otherwise; a version of an applied set is made
    live unless its promotion is manual. A withdrawal is an administrator's order, and always goes live.

    Raises:
        LeaseLost, JobCancelled: the claim no longer holds.
        HeadMoved: the live version is not the parent any more; solve again.
        InconsistentVersion: the job is of another kind, or a dry run.
        BlobMissing: a blob that it names is not in the store.
    """
    repeated = _committed(tx, claim)
    if repeated is not None:
        return repeated
    job = jobs.held(tx, claim)
    if new.kind != job.kind:
        raise InconsistentVersion(job.model_id, f"its kind is {new.kind}, the job's is {job.kind}")
    head = versions.lock_head(tx, job.model_id)
    live = versions.live(tx, job.model_id)
    if live.number != new.parent_number:
        raise HeadMoved(job.model_id, new.parent_number, live.number)
    refs.record(tx, new.delta_digest, "delta")
    refs.record(tx, new.statistics_digest, "statistics")
    row = jobs.subject(tx, job)
    if isinstance(row, EditSet) and row.dry_run:
        raise InconsistentVersion(job.model_id, f"{row.id} is a dry run, which makes no version")
    jobs.move(row, "verifying")
    tx.flush()
    made = versions.append(tx, head, _draft(tx, job, row, new))
    promoted = isinstance(row, Withdrawal) or (new.gate_met and row.promote == "auto")
    jobs.move(row, "applied" if isinstance(row, Withdrawal) or new.gate_met else "rejected")
    row.version_number = made.number
    row.report = None if made.report is None else dict(made.report)
    if isinstance(row, EditSet):
        row.statistics_digest = new.statistics_digest
    jobs.finish(tx, job, row)
    if promoted:
        aliases.point(tx, job.model_id, versions.LIVE, made.number, claim.holder)
    detail = {"subject": jobs.name(row), "hash": made.hash, "live": promoted, "gate_met": new.gate_met}
    place = f"models/{job.model_id}/versions/{made.number}"
    audit.record(tx, claim.holder, "version.commit", place, detail)
    return versions.named(tx, made)


def finish_dry_run(
    session: Session, claim: Claim, report: Json, fact_reports: Sequence[FactReport]
) -> EditSetRecord:
    """End a dry run with what was measured; no version is made. Asking again changes nothing.

    Raises:
        LeaseLost, JobCancelled: the claim no longer holds.
        InconsistentVersion: the edit set is to be applied, not tried.
    """
    job = jobs.lock(session, claim.job_id)
    if job is not None and job.finished_at is not None and job.fence == claim.fence:
        done = edit_sets.get(session, str(job.edit_set_id))
        if done.status == "verified":
            return done
    job = jobs.held(session, claim)
    row = jobs.subject(session, job)
    if not isinstance(row, EditSet) or not row.dry_run:
        raise InconsistentVersion(job.model_id, f"{jobs.name(row)} is no dry run")
    jobs.move(row, "verifying")
    session.flush()
    jobs.move(row, "verified")
    row.report = storable(report, "/report")
    own = [
        {
            "edit_set_id": row.id,
            "position": fact.position,
            "report": storable(fact.report, f"/facts/{fact.position}"),
        }
        for fact in fact_reports
        if fact.edit_set_id == row.id
    ]
    if own:
        session.execute(insert(TrialReport), own)
    jobs.finish(session, job, row)
    audit.record(session, claim.holder, "edit_set.try", jobs.name(row))
    return edit_sets.get(session, row.id)


def _draft(session: Session, job: Job, row: EditSet | Withdrawal, new: NewVersion) -> versions.Draft:
    return versions.Draft(
        kind=new.kind,
        parent=new.parent_number,
        like=new.parent_number,
        change=_change(session, row, new.parent_number, new.statistics_digest or "")[0],
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

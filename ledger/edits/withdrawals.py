"""Withdrawals: requests to take edit sets and single facts out of the live version, in any order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.auth import audit
from ledger.db import queries
from ledger.db.tables import EditSet, Job, Model, Withdrawal
from ledger.edits import conflicts
from ledger.edits.edit_sets import progress_of
from ledger.errors import NotFound, NotLive, WrongModel
from ledger.ids import fact_id, new_id, parse_fact_id
from ledger.integrity.chain import storable
from ledger.jobs import jobs
from ledger.records import Actor, Page, WithdrawalRecord
from ledger.states import EditSetStatus
from ledger.versions import members, versions


def _record(row: Withdrawal, job: Job) -> WithdrawalRecord:
    status: EditSetStatus = row.status  # type: ignore[assignment]  # a trigger holds it
    return WithdrawalRecord(
        id=row.id,
        model_id=row.model_id,
        job_id=job.id,
        status=status,
        edit_set_ids=tuple(row.edit_set_ids),
        fact_ids=tuple(row.fact_ids),
        reason=row.reason,
        version=row.version_number,
        progress=progress_of(job),
        report=row.report,
        error=row.error,
        created_at=row.created_at,
        created_by=row.created_by,
        finished_at=row.finished_at,
    )


def get(session: Session, ident: str) -> WithdrawalRecord:
    """Return a withdrawal.

    Raises:
        NotFound: there is no such withdrawal.
    """
    row = queries.find(session, Withdrawal, ident, "withdrawal")
    job = session.scalars(select(Job).where(Job.withdrawal_id == row.id)).one()
    return _record(row, job)


def list_all(
    session: Session,
    limit: int = 50,
    cursor: str | None = None,
    *,
    model_id: str | None = None,
    status: Collection[EditSetStatus] = (),
) -> Page[WithdrawalRecord]:
    """Return a page of withdrawals, newest first; of one model, or with some statuses, if wanted.

    Raises:
        NotFound: there is no such model.
        InvalidCursor: the cursor is not one of this list.
    """
    query = select(Withdrawal, Job).join(Job, Job.withdrawal_id == Withdrawal.id)
    if model_id is not None:
        query = query.where(Withdrawal.model_id == queries.find(session, Model, model_id, "model").id)
    if status:
        query = query.where(Withdrawal.status.in_(status))
    return queries.page(
        session,
        query,
        Withdrawal.seq,
        "withdrawals",
        limit,
        cursor,
        lambda found: _record(found.Withdrawal, found.Job),
    )


def cancel(session: Session, ident: str, actor: Actor) -> WithdrawalRecord:
    """Cancel a withdrawal whose version has not been made; IllegalTransition if it is finished."""
    jobs.cancel(session, queries.find(session, Withdrawal, ident, "withdrawal"), actor)
    return get(session, ident)


def _check_live(
    session: Session, model_id: str, edit_set_ids: Sequence[str], fact_ids: Sequence[str]
) -> None:
    """See that each edit set and fact is in the live version."""
    places = {ident: parse_fact_id(ident) or ("", 0) for ident in fact_ids}
    wanted = {*edit_set_ids, *(edit_set_id for edit_set_id, _ in places.values())}
    known = _known(session, wanted)
    number = versions.live(session, model_id).number
    withdrawn = {ident: set(m.withdrawn) for ident, m in members.at(session, model_id, number, known).items()}
    for ident in edit_set_ids:
        _check_model(known, ident, "edit set", ident, model_id)
    for ident, (edit_set_id, position) in places.items():
        fact_count = _check_model(known, edit_set_id, "fact", ident, model_id)
        if position >= fact_count or ident != fact_id(edit_set_id, position):
            raise NotFound("fact", ident)
    away = [ident for ident in edit_set_ids if ident not in withdrawn]
    if away:
        raise NotLive(away, model_id, "/withdraw/edit_sets")
    away = [
        ident
        for ident, (edit_set_id, position) in places.items()
        if edit_set_id not in withdrawn or position in withdrawn[edit_set_id]
    ]
    if away:
        raise NotLive(away, model_id, "/withdraw/facts")


def _known(session: Session, idents: Iterable[str]) -> dict[str, tuple[str, int]]:
    """Return of each edit set that there is its model, and how many facts it was posted with."""
    wanted = [ident for ident in idents if queries.can_be_id(ident)]
    query = select(EditSet.id, EditSet.model_id, EditSet.fact_count).where(queries.one_of(EditSet.id, wanted))
    return {row.id: (row.model_id, row.fact_count) for row in session.execute(query)}


def _check_model(
    known: Mapping[str, tuple[str, int]], edit_set_id: str, kind: str, ident: str, model_id: str
) -> int:
    """See that an edit set is of the model, and return how many facts it has."""
    if edit_set_id not in known:
        raise NotFound(kind, ident)
    owner, fact_count = known[edit_set_id]
    if owner != model_id:
        raise WrongModel(kind, ident, owner, model_id)
    return fact_count


def preview(
    session: Session, model_id: str, edit_set_ids: Sequence[str], fact_ids: Sequence[str]
) -> members.Difference:
    """Return what the withdrawal of these would change in the live version.

    Raises:
        NotFound, WrongModel, NotLive, ModelNotReady: as `request` says.
    """
    _check_live(session, model_id, edit_set_ids, fact_ids)
    number = versions.live(session, model_id).number
    change = conflicts.without(session, model_id, number, edit_set_ids, fact_ids)
    before = members.at(session, model_id, number, change)
    return {ident: (before.get(ident), after) for ident, after in change.items()}


def request(
    session: Session,
    model_id: str,
    edit_set_ids: Sequence[str],
    fact_ids: Sequence[str],
    reason: str,
    actor: Actor,
) -> WithdrawalRecord:
    """Ask for a version without these edit sets and facts: a job that a worker solves, and makes live.

    Raises:
        NotFound: there is no such model, edit set or fact.
        WrongModel: one of them belongs to another model.
        NotLive: one of them is not in the live version.
        ModelNotReady: the model has no version yet.
    """
    if not edit_set_ids and not fact_ids:
        raise ValueError("a withdrawal names at least one edit set or fact")
    _check_live(session, model_id, edit_set_ids, fact_ids)
    row = Withdrawal(
        id=new_id("wd"),
        model_id=model_id,
        edit_set_ids=sorted(set(edit_set_ids)),
        fact_ids=sorted(set(fact_ids)),
        reason=storable(reason, "/reason"),
        created_by=audit.actor_name(actor),
    )
    session.add(row)
    session.flush()
    job = Job(id=new_id("job"), model_id=model_id, kind="withdraw", withdrawal_id=row.id)
    session.add(job)
    session.flush()
    detail = {"edit_sets": row.edit_set_ids, "facts": row.fact_ids, "reason": reason, "withdrawal": row.id}
    audit.record(session, actor, "model.withdraw", f"models/{model_id}", detail)
    return _record(row, job)

"""Edit sets: accepted with their facts and job in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, insert, not_, or_, select
from sqlalchemy.orm import Session

from ledger.auth import audit, idempotency
from ledger.db import queries
from ledger.db.tables import Alias, EditSet, Fact, Job, Membership
from ledger.edits import conflicts
from ledger.errors import EditTooLarge, IdempotencyConflict, NotFound, TooManyEdits
from ledger.ids import new_id
from ledger.integrity import chain
from ledger.integrity.chain import storable
from ledger.jobs import jobs
from ledger.models import models
from ledger.records import Actor, EditSetRecord, Json, KeyRecord, Limits, ModelRecord, Page, Progress
from ledger.states import EditSetStatus, OnConflict, Promote
from ledger.versions import members, versions

FACT_TEXTS = (Fact.prompt, Fact.target, Fact.subject, Fact.question, Fact.note)
LARGE = 64
"""Sets of so many facts tell how long a fact takes."""


def progress_of(job: Job) -> Progress | None:
    """Return how far a job is, or None if no worker has said."""
    return Progress(job.stage, job.stage_done, job.stage_total) if job.stage else None


def _record(row: EditSet, job: Job, live: bool) -> EditSetRecord:
    status: EditSetStatus = row.status  # type: ignore[assignment]  # a trigger holds these
    promote: Promote = row.promote  # type: ignore[assignment]
    on_conflict: OnConflict = row.on_conflict  # type: ignore[assignment]
    return EditSetRecord(
        id=row.id,
        model_id=row.model_id,
        job_id=job.id,
        status=status,
        promote=promote,
        gate=row.gate,
        edit_on_rephrasings=row.edit_on_rephrasings,
        on_conflict=on_conflict,
        dry_run=row.dry_run,
        note=row.note,
        fact_count=row.fact_count,
        facts_digest=row.facts_digest,
        merged=tuple(row.merged),
        statistics_digest=row.statistics_digest,
        version=row.version_number,
        live=live,
        progress=progress_of(job),
        report=row.report,
        error=row.error,
        created_at=row.created_at,
        created_by=row.created_by,
        finished_at=row.finished_at,
    )


def _is_live() -> ColumnElement[bool]:
    """Say that the live version holds an edit set."""
    return (
        select(Membership.edit_set_id)
        .join(Alias, (Alias.model_id == Membership.model_id) & (Alias.name == versions.LIVE))
        .where(Membership.edit_set_id == EditSet.id, members.covers(Membership, Alias.number))
        .exists()
    )


def says(columns: Iterable[Any], text: str) -> ColumnElement[bool]:
    """Say that one of some columns has a text in it, whatever its case."""
    return or_(*(column.icontains(text, autoescape=True) for column in columns))


def _select() -> Select[*tuple[Any, ...]]:
    return select(EditSet, Job, _is_live().label("live")).join(Job, Job.edit_set_id == EditSet.id)


def _of_row(row: Any) -> EditSetRecord:
    return _record(row.EditSet, row.Job, row.live)


def get(session: Session, edit_set_id: str) -> EditSetRecord:
    """Return an edit set.

    Raises:
        NotFound: there is no such edit set.
    """
    row = None
    if queries.can_be_id(edit_set_id):
        query = _select().where(EditSet.id == edit_set_id)
        row = session.execute(query, execution_options={"populate_existing": True}).one_or_none()
    if row is None:
        raise NotFound("edit set", edit_set_id)
    return _of_row(row)


def list_all(
    session: Session,
    limit: int = 50,
    cursor: str | None = None,
    *,
    model_id: str | None = None,
    status: EditSetStatus | Collection[EditSetStatus] = (),
    live: bool | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    created_by: str | None = None,
    text: str | None = None,
) -> Page[EditSetRecord]:
    """Return a page of edit sets, newest first.

    Args:
        session: the transaction.
        limit: edit sets of a page.
        cursor: of the page before, or None.
        model_id: only this model's.
        status: only those with this status, or one of some.
        live: only those that the live version holds, or only others.
        created_after: only those accepted at this time or later.
        created_before: only those accepted earlier.
        created_by: only those accepted under this key.
        text: only those with this in their note, or in a fact's prompt, target, subject, question or note,
            whatever its case.

    Raises:
        NotFound: there is no such model.
        InvalidCursor: the cursor is not one of this list.
    """
    query = _select()
    if model_id is not None:
        query = query.where(EditSet.model_id == models.get(session, model_id).id)
    if status:
        query = query.where(EditSet.status.in_([status] if isinstance(status, str) else status))
    if live is not None:
        query = query.where(_is_live() if live else not_(_is_live()))
    if created_after is not None:
        query = query.where(EditSet.created_at >= created_after)
    if created_before is not None:
        query = query.where(EditSet.created_at < created_before)
    if created_by is not None:
        query = query.where(EditSet.created_by == created_by)
    if text is not None:
        of_facts = exists().where(Fact.edit_set_id == EditSet.id, says(FACT_TEXTS, text))
        query = query.where(or_(says((EditSet.note,), text), of_facts))
    return queries.page(session, query, EditSet.seq, "edit_sets", limit, cursor, _of_row)


def cancel(session: Session, edit_set_id: str, actor: Actor) -> EditSetRecord:
    """Cancel an edit set that has not been applied; IllegalTransition if it is finished."""
    jobs.cancel(session, queries.find(session, EditSet, edit_set_id, "edit set"), actor)
    return get(session, edit_set_id)


def _replayed(
    session: Session, edit_set_id: str, actor: KeyRecord, idempotency_key: str, body_digest: str
) -> EditSetRecord | None:
    """Take the idempotency key for this edit set, or return the one that has it."""
    first = idempotency.take(session, actor, idempotency_key, body_digest, edit_set_id)
    if first is None:
        return None
    if first.edit_set_id is None:
        raise IdempotencyConflict(idempotency_key)
    return get(session, first.edit_set_id)


def accept(
    session: Session,
    model_id: str,
    facts: Sequence[Mapping[str, Any]],
    promote: Promote = "auto",
    gate: Json | None = None,
    edit_on_rephrasings: bool = False,
    note: str | None = None,
    on_conflict: OnConflict = "replace",
    dry_run: bool = False,
    *,
    merged: Sequence[Json] = (),
    actor: KeyRecord,
    idempotency_key: str | None = None,
    body_digest: str = "",
    check: Callable[[ModelRecord], None] | None = None,
    limits: Limits | None = None,
) -> tuple[EditSetRecord, bool]:
    """Accept an edit set, and return it with whether it is a repetition.

    Args:
        session: the transaction: edit set, facts, idempotency key and job, or none of them.
        model_id: the model to edit, ready or being prepared.
        facts: at least one, each with prompt, target and optionally subject, rephrasings, locality, question,
            joiner.
        promote: auto or manual.
        gate: thresholds over the model's.
        edit_on_rephrasings: whether rephrasings are edited too.
        note: free text.
        on_conflict: whether a fact that answers what a live one does replaces it, or the set is refused.
        dry_run: whether to measure only, and make no version.
        merged: facts of the request that are left out since an earlier one says the same.
        actor: the key under which it was posted; idempotency keys are per key.
        idempotency_key: the client's, if it sent one.
        body_digest: digest of the request's body, by which a repetition is told from a conflict.
        check: called with the model before anything is recorded; may raise.
        limits: on what may wait, and on how long it may take.

    Raises:
        NotFound, ModelNotReady: the model does not exist, or failed.
        IdempotencyConflict: the idempotency key was used with another body.
        TooManyEdits, EditTooLarge: it is over a limit.
        FactConflict: a fact answers what a live one does, and conflicts are to be rejected.
        UnstorableText, NotANumber: text or numbers that cannot be recorded.
    """
    clean = [_clean(fact, f"/facts/{position}") for position, fact in enumerate(facts)]
    if not clean:
        raise ValueError("an edit set has at least one fact")
    ident = new_id("es")
    if idempotency_key is not None:
        replay = _replayed(session, ident, actor, idempotency_key, body_digest)
        if replay is not None:
            return replay, True
    unfinished = select(func.count()).where(EditSet.status.in_(("queued", "running", "verifying")))
    of_key = unfinished.where(EditSet.created_by == actor.id).scalar_subquery().label("of_key")
    of_model = unfinished.where(EditSet.model_id == model_id).scalar_subquery().label("of_model")
    model, waiting = models.get_with(session, model_id, of_key, of_model)
    if check is not None:
        check(model)
    models.check_usable(model)
    if limits is not None:
        _check_limits(session, model.id, len(clean), limits, waiting)
    if on_conflict == "reject" and model.live_version is not None:
        conflicts.refuse_conflicts(session, model.id, clean)
    row = EditSet(
        id=ident,
        model_id=model.id,
        promote=promote,
        gate=storable(gate, "/gate"),
        edit_on_rephrasings=edit_on_rephrasings,
        on_conflict=on_conflict,
        dry_run=dry_run,
        note=storable(note, "/note"),
        fact_count=len(clean),
        facts_digest=chain.facts_digest(clean),
        merged=storable(list(merged), "/facts"),
        created_by=actor.id,
    )
    job = _insert(session, row, clean)
    detail = {"model": model.id, "facts": len(clean), "facts_digest": row.facts_digest}
    audit.record(session, actor, "edit_set.accept", f"edits/{ident}", detail)
    return _record(row, job, live=False), False


def _check_limits(session: Session, model_id: str, facts: int, limits: Limits, waiting: Any) -> None:
    """Refuse what is too much: too many sets that wait, or a set that would be given up before it is done."""
    if waiting.of_key >= limits.of_key:
        raise TooManyEdits("this key", waiting.of_key, "ERRATA_MAX_WAITING_OF_KEY")
    if waiting.of_model >= limits.of_model:
        raise TooManyEdits(f"model {model_id!r}", waiting.of_model, "ERRATA_MAX_WAITING_OF_MODEL")
    if facts < LARGE:
        return
    took = func.extract("epoch", Job.finished_at - Job.claimed_at) / EditSet.fact_count
    large = (
        select(took.label("took"))
        .join(Job, Job.edit_set_id == EditSet.id)
        .where(EditSet.model_id == model_id, EditSet.fact_count >= LARGE, EditSet.report.is_not(None))
        .order_by(EditSet.seq.desc())
        .limit(20)
        .subquery()
    )
    fastest = session.scalar(select(func.min(large.c.took)))
    if fastest and facts * float(fastest) > limits.seconds:
        fitting = max(1, int(limits.seconds / float(fastest)))
        raise EditTooLarge(facts, facts * float(fastest), limits.seconds, fitting)


def _insert(session: Session, row: EditSet, facts: Sequence[dict[str, Any]]) -> Job:
    """Add an edit set, its facts and its job."""
    session.add(row)
    session.flush()
    places = [{"edit_set_id": row.id, "position": position} for position in range(len(facts))]
    session.execute(insert(Fact), [place | fact for place, fact in zip(places, facts, strict=True)])
    job = Job(id=new_id("job"), model_id=row.model_id, kind="edit", edit_set_id=row.id)
    session.add(job)
    session.flush()
    return job


def _clean(fact: Mapping[str, Any], field: str) -> dict[str, Any]:
    """Return a fact's columns, with every text checked."""
    return {
        "prompt": storable(fact["prompt"], f"{field}/prompt"),
        "target": storable(fact["target"], f"{field}/target"),
        "subject": storable(fact.get("subject"), f"{field}/subject"),
        "rephrasings": storable(fact.get("rephrasings") or [], f"{field}/rephrasings"),
        "locality": storable(fact.get("locality") or [], f"{field}/locality"),
        "joiner": fact.get("joiner", "auto"),
        **{
            name: storable(fact.get(name), f"{field}/{name}")
            for name in ("question", "source", "author", "ticket", "note")
        },
        "expires_at": fact.get("expires_at"),
    }

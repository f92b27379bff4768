"""Edit sets: accepted with their facts and job in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from ledger.auth import audit
from ledger.db import queries
from ledger.db.tables import EditSet, Fact, IdempotencyKey, Job
from ledger.edits import conflicts
from ledger.errors import IdempotencyConflict
from ledger.ids import new_id
from ledger.integrity import chain
from ledger.integrity.chain import storable
from ledger.models import models
from ledger.records import EditSetRecord, Json, KeyRecord, Page, Progress
from ledger.states import EditSetStatus, OnConflict, Promote
from ledger.versions import versions


@dataclass(frozen=True)
class Order:
    """An edit set as it is asked for.

    Attributes:
        model_id: the model to edit, ready or being prepared.
        facts: at least one, each with prompt, target and optionally subject, rephrasings, locality.
        promote: auto or manual.
        gate: thresholds over the model's.
        edit_on_rephrasings: whether rephrasings are edited too.
        note: free text.
        dry_run: whether to measure only, and make no version.
        on_conflict: whether a fact that answers what a live one does replaces it, or the set is refused.
    """

    model_id: str
    facts: Sequence[Mapping[str, Any]]
    promote: Promote
    gate: Json | None
    edit_on_rephrasings: bool
    note: str | None
    on_conflict: OnConflict = "replace"
    dry_run: bool = False


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


def _records(session: Session, found: Sequence[EditSet]) -> list[EditSetRecord]:
    idents = [row.id for row in found]
    jobs = session.scalars(select(Job).where(Job.edit_set_id.in_(idents)))
    by_edit_set = {job.edit_set_id: job for job in jobs}
    live = versions.live_among(session, idents)
    return [_record(row, by_edit_set[row.id], row.id in live) for row in found]


def get(session: Session, edit_set_id: str) -> EditSetRecord:
    """Return an edit set.

    Raises:
        NotFound: there is no such edit set.
    """
    return _records(session, [queries.find(session, EditSet, edit_set_id, "edit set")])[0]


def list_all(
    session: Session, limit: int, cursor: str | None, model_id: str | None, status: EditSetStatus | None
) -> Page[EditSetRecord]:
    """Return a page of edit sets, newest first; of one model or one status if wanted.

    Raises:
        NotFound: there is no such model.
        InvalidCursor: the cursor is not one of this list.
    """
    query = select(EditSet)
    if model_id is not None:
        query = query.where(EditSet.model_id == models.get(session, model_id).id)
    if status is not None:
        query = query.where(EditSet.status == status)
    return queries.page(
        session, query, EditSet.seq, "edit_sets", limit, cursor, lambda found: _records(session, found)
    )


def first_answer(
    session: Session, actor: KeyRecord, idempotency_key: str, body_digest: str
) -> EditSetRecord | None:
    """Return the edit set that has an idempotency key of an API key, or None if none has.

    Raises:
        IdempotencyConflict: it was posted with another body.
    """
    first = session.get(IdempotencyKey, (actor.id, storable(idempotency_key, "/Idempotency-Key")))
    if first is None:
        return None
    if first.body_digest != body_digest:
        raise IdempotencyConflict(idempotency_key)
    return get(session, first.edit_set_id)


def _replayed(
    session: Session, edit_set_id: str, actor: KeyRecord, idempotency_key: str, body_digest: str
) -> EditSetRecord | None:
    """Take the idempotency key for this edit set, or return the one that has it.

    Of two requests at once, the second waits here until the first commits.
    """
    taken = session.execute(
        postgresql.insert(IdempotencyKey)
        .values(
            key_id=actor.id,
            idempotency_key=storable(idempotency_key, "/Idempotency-Key"),
            body_digest=body_digest,
            edit_set_id=edit_set_id,
        )
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.key_id)
    ).scalar()
    return None if taken is not None else first_answer(session, actor, idempotency_key, body_digest)


def accept(
    session: Session, asked: Order, actor: KeyRecord, idempotency_key: str | None, body_digest: str
) -> tuple[EditSetRecord, bool]:
    """Accept an edit set, and return it with whether it is a repetition.

    Args:
        session: the transaction: edit set, facts, idempotency key and job, or none of them.
        asked: what was posted.
        actor: the key under which it was posted; idempotency keys are per key.
        idempotency_key: the client's, if it sent one.
        body_digest: digest of the request's body, by which a repetition is told from a conflict.

    Raises:
        NotFound, ModelNotReady: the model does not exist, or failed.
        IdempotencyConflict: the idempotency key was used with another body.
        FactConflict: a fact answers what a live one does, and conflicts are to be rejected.
        UnstorableText, NotANumber: text or numbers that cannot be recorded.
    """
    clean = [_clean(fact, f"/facts/{position}") for position, fact in enumerate(asked.facts)]
    if not clean:
        raise ValueError("an edit set has at least one fact")
    ident = new_id("es")
    if idempotency_key is not None:
        replay = _replayed(session, ident, actor, idempotency_key, body_digest)
        if replay is not None:
            return replay, True
    model = models.require_usable(session, asked.model_id)
    if asked.on_conflict == "reject" and model.live_version is not None:
        conflicts.refuse_conflicts(session, model.id, clean)
    row = EditSet(
        id=ident,
        model_id=model.id,
        promote=asked.promote,
        gate=storable(asked.gate, "/gate"),
        edit_on_rephrasings=asked.edit_on_rephrasings,
        on_conflict=asked.on_conflict,
        dry_run=asked.dry_run,
        note=storable(asked.note, "/note"),
        fact_count=len(clean),
        facts_digest=chain.facts_digest(clean),
        created_by=actor.id,
    )
    job = _insert(session, row, clean)
    detail = {"model": model.id, "facts": len(clean), "facts_digest": row.facts_digest}
    audit.record(session, actor, "edit_set.accept", f"edits/{ident}", detail)
    return _record(row, job, live=False), False


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
        **{
            name: storable(fact.get(name), f"{field}/{name}")
            for name in ("source", "author", "ticket", "note")
        },
        "expires_at": fact.get("expires_at"),
    }

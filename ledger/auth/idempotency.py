"""Idempotency keys: the first answer to a request is kept for a day, and given again to its repeats.

A key belongs to the API key that sent it, and stands for one request: another one under it is refused.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, func, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from ledger.db.tables import IdempotencyKey
from ledger.errors import IdempotencyConflict
from ledger.integrity.chain import storable
from ledger.records import Json, KeyRecord

KEPT = timedelta(hours=24)


def take(
    session: Session, actor: KeyRecord, idempotency_key: str, digest: str, edit_set_id: str | None = None
) -> IdempotencyKey | None:
    """Take a key for a request, or return the row of the request that has it.

    Of two requests at once, the second waits here until the first commits. A key that was taken a day ago is
    free again.

    Args:
        session: the transaction of the request.
        actor: who asks.
        idempotency_key: the client's.
        digest: of what is asked.
        edit_set_id: the edit set that the request makes, if it makes one.

    Raises:
        IdempotencyConflict: it was taken for another request.
        UnstorableText: it cannot be stored.
    """
    place = {"key_id": actor.id, "idempotency_key": storable(idempotency_key, "/Idempotency-Key")}
    values = {"body_digest": digest, "edit_set_id": edit_set_id, "answer": None, "created_at": func.now()}
    taken = session.execute(
        postgresql.insert(IdempotencyKey)
        .values(**place, **values)
        .on_conflict_do_update(
            index_elements=["key_id", "idempotency_key"],
            set_=values,
            where=IdempotencyKey.created_at < func.now() - KEPT,
        )
        .returning(IdempotencyKey.key_id)
    ).scalar()
    if taken is not None:
        return None
    first = session.get_one(IdempotencyKey, tuple(place.values()), populate_existing=True)
    if first.body_digest != digest:
        raise IdempotencyConflict(idempotency_key)
    return first


def keep(session: Session, actor: KeyRecord, idempotency_key: str, answer: Json) -> None:
    """Keep the answer to a request that has taken a key."""
    session.execute(
        update(IdempotencyKey)
        .where(IdempotencyKey.key_id == actor.id, IdempotencyKey.idempotency_key == idempotency_key)
        .values(answer=storable(dict(answer), "/answer"))
    )


def forget(session: Session) -> int:
    """Remove the keys whose day is over, and return how many there were."""
    old = IdempotencyKey.created_at < func.now() - KEPT
    return session.execute(delete(IdempotencyKey).where(old)).rowcount  # type: ignore[attr-defined,no-any-return]

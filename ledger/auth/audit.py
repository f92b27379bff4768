"""Audit events: who did what to which object. Written in the transaction of the change itself."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from ledger.db import queries
from ledger.db.tables import AuditEvent
from ledger.records import Actor, AuditRecord, Json, KeyRecord, Page


def actor_name(actor: Actor) -> str:
    """Return the name under which an actor is recorded: a key's id, or the name itself."""
    return actor.id if isinstance(actor, KeyRecord) else actor


def record(session: Session, actor: Actor, action: str, target: str, detail: Json | None = None) -> None:
    """Add an event, such as `version.commit` on `models/m/versions/3`."""
    session.execute(
        insert(AuditEvent).values(
            actor=actor_name(actor), action=action, object=target, detail=dict(detail or {})
        )
    )


def list_all(
    session: Session,
    limit: int = 50,
    cursor: str | None = None,
    *,
    object: str | None = None,  # noqa: A002 - the word that clients use
    actor: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
) -> Page[AuditRecord]:
    """Return a page of audit events, newest first.

    Args:
        session: the transaction.
        limit: events of a page.
        cursor: of the page before, or None.
        object: only those about it, or about what lies below it: `models/m` has `models/m/versions/3` too.
        actor: only those of this key's id or name.
        action: only these, such as `version.commit`.
        since: none from before this time.

    Raises:
        InvalidCursor: the cursor is not one of this list.
    """
    query = select(AuditEvent)
    if object is not None:
        below = AuditEvent.object.startswith(f"{object}/", autoescape=True)
        query = query.where((AuditEvent.object == object) | below)
    if actor is not None:
        query = query.where(AuditEvent.actor == actor)
    if action is not None:
        query = query.where(AuditEvent.action == action)
    if since is not None:
        query = query.where(AuditEvent.at >= since)
    return queries.page(
        session, query, AuditEvent.id, "audit", limit, cursor, lambda row: _record(row.AuditEvent)
    )


def _record(row: AuditEvent) -> AuditRecord:
    return AuditRecord(row.id, row.at, row.actor, row.action, row.object, row.detail)

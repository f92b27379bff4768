"""Audit events: who did what to which object. Written in the transaction of the change itself."""

from __future__ import annotations

from sqlalchemy import insert
from sqlalchemy.orm import Session

from ledger.db.tables import AuditEvent
from ledger.records import Actor, Json, KeyRecord


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

"""The audit trail: who did what to which object, and when."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from ledger.auth import audit
from service import views
from service.context import Tx
from service.guard import AdminKey
from service.routes import problems, router
from service.schemas.audit import AuditEventView, AuditQuery
from service.schemas.base import Paged

routes = router("audit")


@routes.get("/admin/audit", responses=problems(422))
def list_events(asked: Annotated[AuditQuery, Query()], tx: Tx, _: AdminKey) -> Paged[AuditEventView]:
    """Who did what, newest first."""
    page = audit.list_all(
        tx,
        asked.limit,
        asked.cursor,
        target=asked.object,
        actor=asked.actor,
        action=asked.action,
        since=asked.since,
    )
    return Paged(items=[views.audit_event(item) for item in page.items], next_cursor=page.next_cursor)

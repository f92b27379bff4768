"""The audit trail on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from service.schemas.base import Answer, Moment, PageQuery


class AuditQuery(PageQuery):
    """The parameters of `GET /admin/audit`."""

    object: str | None = Field(
        None,
        max_length=512,
        description="Only what was done to this, such as `edits/es_01k9` or `keys/5f2c`, or to what lies below "
        "it: `models/m` has that model's versions and aliases too.",
    )
    actor: str | None = Field(
        None, max_length=256, description="Only what this key did, by its id; or `system`, a worker's id."
    )
    action: str | None = Field(None, max_length=64, description="Only these, such as `alias.set`.")
    since: Moment | None = Field(None, description="Only what was done at this time or later.")


class AuditEventView(Answer):
    """Something that was done."""

    id: int
    at: datetime
    actor: str
    action: str
    object: str
    detail: dict[str, Any]

"""Keys on the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import ConfigDict, Field, field_validator

from service.schemas.base import Answer, FilledText, Moment, RequestBody

Scope = Literal["generate", "read", "edit", "admin"]


class KeyBody(RequestBody):
    """A key to make."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "newsroom", "scopes": ["read", "edit"]}]}
    )

    name: FilledText = Field(max_length=200, description="Who or what it is for; shown in the ledger.")
    scopes: list[Scope] = Field(
        min_length=1,
        max_length=4,
        description="`generate`: ask models; `read`: look at edits and versions too; `edit`: post and cancel "
        "edits too; `admin`: everything.",
    )
    expires_at: Moment | None = Field(
        None, description="From when it is refused; a time to come, with its zone. Without one, it stays."
    )

    @field_validator("expires_at")
    @classmethod
    def is_to_come(cls, given: datetime | None) -> datetime | None:
        """Refuse a key that would be refused.

        Raises:
            ValueError: the time is over.
        """
        if given is not None and given <= datetime.now(UTC):
            raise ValueError("must be a time to come")
        return given


class KeyView(Answer):
    """A key, without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    created_by: str
    revoked_at: datetime | None
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute; null if it never was.")


class NewKeyView(KeyView):
    """A key that was just made; its secret is shown here and never again."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "key_01k9",
                    "name": "newsroom",
                    "scopes": ["edit", "read"],
                    "created_at": "2026-01-05T10:00:00Z",
                    "created_by": "admin",
                    "revoked_at": None,
                    "expires_at": "2027-01-05T10:00:00Z",
                    "last_used_at": None,
                    "secret": "errata_…",
                }
            ]
        }
    )

    secret: str | None = Field(
        description="Null in the answer to a repeat under the same Idempotency-Key: it is kept nowhere."
    )

"""Keys on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict, Field

from service.schemas.base import Answer, FilledText, RequestBody

Scope = Literal["read", "edit", "admin"]


class KeyBody(RequestBody):
    """A key to make."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "newsroom", "scopes": ["read", "edit"]}]}
    )

    name: FilledText = Field(max_length=200, description="Who or what it is for; shown in the ledger.")
    scopes: list[Scope] = Field(min_length=1, max_length=3)


class KeyView(Answer):
    """A key, without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    created_by: str
    revoked_at: datetime | None


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
                    "secret": "errata_…",
                }
            ]
        }
    )

    secret: str

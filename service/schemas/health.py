"""Liveness, readiness and the ledger's proof on the wire."""

from __future__ import annotations

from pydantic import Field

from service.schemas.base import Answer


class Health(Answer):
    """The process answers."""

    status: str = "ok"
    version: str


class Check(Answer):
    """One thing that readiness needs."""

    name: str
    ok: bool
    reason: str | None = Field(None, description="What is missing and what to do.")


class Readiness(Answer):
    """Whether the service can do all of its work, and why not."""

    ready: bool
    checks: list[Check]


class LedgerProblemView(Answer):
    """One thing that is wrong in the ledger."""

    kind: str
    object: str
    detail: str


class LedgerCheckView(Answer):
    """The result of walking every hash chain and every blob."""

    ok: bool
    versions: int
    edit_sets: int
    blobs: int
    problems: list[LedgerProblemView]

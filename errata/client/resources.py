"""What the service answers: objects whose members are attributes, known ones with their types.

A member that this release does not know is there all the same, and `raw` is the whole answer.
"""

from __future__ import annotations

from typing import Any


class Resource:
    """An answer of the service."""

    __slots__ = ("raw",)

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw

    def __getattr__(self, name: str) -> Any:
        if name == "raw" or name not in self.raw:
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        return self.raw[name]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Resource) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash((type(self), repr(self.raw)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.raw!r})"


class EditSet(Resource):
    """An edit set and what became of it."""

    id: str
    model: str
    status: str
    fact_count: int
    merged: list[dict[str, int]]
    promote: str
    note: str | None
    progress: dict[str, Any] | None
    version: int | None
    live: bool
    created_at: str
    finished_at: str | None
    report: dict[str, Any] | None
    error: dict[str, Any] | None

    @property
    def succeeded(self) -> bool:
        """Whether it was measured and met its gate; `live` says whether it is served."""
        return self.status == "succeeded"


class Fact(Resource):
    """One fact of an edit set, and what was measured for it."""

    id: str
    position: int
    prompt: str
    target: str
    subject: str | None
    rephrasings: list[str]
    locality: list[dict[str, Any]]
    question: str | None
    joiner: str
    live: bool
    report: dict[str, Any] | None


class HeldFact(Resource):
    """A fact of a version; `score` says how near a prompt is to it, where one was given.

    One that was searched for among all has its `model`, where it comes from, and whether it is `live`.
    """

    fact: str
    edit_set: str
    position: int
    prompt: str
    target: str
    subject: str | None
    score: float


class Change(HeldFact):
    """A fact that one version holds and another does not."""

    change: str


class Model(Resource):
    """A registered model."""

    id: str
    source: str
    revision: str | None
    status: str
    context_length: int
    modules: list[str]
    gate: dict[str, Any]
    live_version: int | None
    aliases: dict[str, int]
    error: dict[str, Any] | None


class Version(Resource):
    """One version of a model."""

    model: str
    number: int
    parent: int | None
    kind: str
    live_fact_count: int
    aliases: list[str]
    gate_met: bool
    report: dict[str, Any] | None
    weights_digest: str | None
    hash: str
    created_at: str
    reason: str | None


class Withdrawal(Resource):
    """A withdrawal; `version` is the number of what it made, once it has succeeded."""

    id: str
    model: str
    status: str
    edit_sets: list[str]
    facts: list[str]
    reason: str
    version: int | None
    error: dict[str, Any] | None


class Generation(Resource):
    """An answer of one version."""

    model: str
    version: int
    text: str
    labels: dict[str, float] | None
    finish_reason: str
    usage: dict[str, int]
    weights_digest: str | None


class Key(Resource):
    """An API key; `secret` is there once, when it has been made."""

    id: str
    name: str
    scopes: list[str]
    created_at: str
    revoked_at: str | None
    expires_at: str | None
    last_used_at: str | None
    secret: str


class Editor(Resource):
    """An editor that was uploaded."""

    digest: str
    base_digest: str
    card: dict[str, Any]


class AuditEvent(Resource):
    """Something that was done."""

    id: int
    at: str
    actor: str
    action: str
    object: str
    detail: dict[str, Any]


class Alias(Resource):
    """An alias of a model's version."""

    model: str
    name: str
    version: int


class LedgerCheck(Resource):
    """The result of walking the ledger."""

    ok: bool
    versions: int
    edit_sets: int
    problems: list[dict[str, Any]]

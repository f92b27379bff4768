"""The ledger's tables, as SQLAlchemy maps them. `migrations/` makes them; a test holds the two equal.

Append-only by trigger: facts, questions, supersessions, versions, fact_reports, trial_reports, blobs,
audit_events; a membership is ended once, and changes in nothing else.
Mutable: the head and aliases of a model, jobs and their leases, statuses.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from ledger.db.base import Base, Json, now, sequence


class Blob(Base):
    """A file in the blob store that some row names. Written in the transaction that names it."""

    __tablename__ = "blobs"
    digest: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    place: Mapped[str]
    created_at: Mapped[datetime] = now()
    __table_args__ = (
        CheckConstraint("kind IN ('editor', 'delta', 'statistics')", name="kind"),
        CheckConstraint("digest ~ '^sha256:[0-9a-f]{64}$'", name="digest"),
    )


class Key(Base):
    """An API key: the hash of its secret and its scopes."""

    __tablename__ = "keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = sequence()
    name: Mapped[str]
    scopes: Mapped[list[str]]
    digest: Mapped[str]
    given: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = now()
    created_by: Mapped[str]
    revoked_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class Model(Base):
    """A registered base model and its editor.

    One of the hub is fetched by a worker: before, `digest` and `architecture` are empty; `asked` has revision and
    modules as they were asked for, which are then pinned.
    """

    __tablename__ = "models"
    id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = sequence()
    source: Mapped[str]
    revision: Mapped[str | None]
    architecture: Mapped[str]
    context_length: Mapped[int]
    modules: Mapped[list[str]]
    digest: Mapped[str]
    gate: Mapped[Json]
    status: Mapped[str] = mapped_column(server_default=text("'preparing'"))
    given_editor_digest: Mapped[str | None] = mapped_column(ForeignKey("blobs.digest"))
    editor_digest: Mapped[str | None] = mapped_column(ForeignKey("editors.digest"))
    canaries: Mapped[Json | None]
    base_parameters_digest: Mapped[str | None]
    error: Mapped[Json | None]
    asked: Mapped[Json | None]
    progress: Mapped[Json | None]
    created_at: Mapped[datetime] = now()
    created_by: Mapped[str]
    __table_args__ = (
        CheckConstraint("status IN ('preparing', 'ready', 'failed', 'archived')", name="status"),
    )


class Editor(Base):
    """An editor that a model uses or has used."""

    __tablename__ = "editors"
    digest: Mapped[str] = mapped_column(ForeignKey("blobs.digest"), primary_key=True)
    card: Mapped[Json]
    created_at: Mapped[datetime] = now()


class Head(Base):
    """The end of a model's chain: the row that every new version locks; and the job that solves for the next.

    That job keeps others from solving only while its claim stands: see `jobs.begin_solving`.
    """

    __tablename__ = "heads"
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    number: Mapped[int]
    hash: Mapped[str]
    members_state: Mapped[bytes]
    solving_job: Mapped[str | None]
    solving_fence: Mapped[int | None]


class LegalTransition(Base):
    """A status change that the triggers allow."""

    __tablename__ = "legal_transitions"
    old: Mapped[str] = mapped_column(primary_key=True)
    new: Mapped[str] = mapped_column(primary_key=True)


class EditSet(Base):
    """The facts of one request and their status."""

    __tablename__ = "edit_sets"
    id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = sequence()
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    status: Mapped[str] = mapped_column(server_default=text("'queued'"))
    promote: Mapped[str]
    gate: Mapped[Json | None]
    edit_on_rephrasings: Mapped[bool]
    on_conflict: Mapped[str] = mapped_column(server_default=text("'replace'"))
    dry_run: Mapped[bool] = mapped_column(server_default=text("false"))
    note: Mapped[str | None]
    fact_count: Mapped[int]
    facts_digest: Mapped[str]
    merged: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))
    statistics_digest: Mapped[str | None] = mapped_column(ForeignKey("blobs.digest"))
    version_number: Mapped[int | None]
    report: Mapped[Json | None]
    error: Mapped[Json | None]
    created_at: Mapped[datetime] = now()
    created_by: Mapped[str]
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        CheckConstraint("promote IN ('auto', 'manual')", name="promote"),
        CheckConstraint("on_conflict IN ('replace', 'reject')", name="on_conflict"),
        CheckConstraint("fact_count > 0", name="fact_count"),
        ForeignKeyConstraint(
            ["model_id", "version_number"], ["versions.model_id", "versions.number"], use_alter=True
        ),
        Index(None, "model_id", "seq"),
        Index(None, "status", "seq"),
    )


class Fact(Base):
    """One fact, at a position from 0 in its edit set."""

    __tablename__ = "facts"
    edit_set_id: Mapped[str] = mapped_column(ForeignKey("edit_sets.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    prompt: Mapped[str]
    target: Mapped[str]
    subject: Mapped[str | None]
    rephrasings: Mapped[list[Any]]
    locality: Mapped[list[Any]]
    question: Mapped[str | None]
    joiner: Mapped[str] = mapped_column(server_default=text("'auto'"))
    source: Mapped[str | None]
    author: Mapped[str | None]
    ticket: Mapped[str | None]
    note: Mapped[str | None]
    expires_at: Mapped[datetime | None]
    __table_args__ = (
        CheckConstraint("joiner IN ('auto', ' ', '')", name="joiner"),
        Index("facts_expires_at_idx", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
    )


class Question(Base):
    """A digest under which a fact that was to be applied is found by others that ask the same."""

    __tablename__ = "questions"
    digest: Mapped[str] = mapped_column(primary_key=True)
    edit_set_id: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    __table_args__ = (
        ForeignKeyConstraint(["edit_set_id", "position"], ["facts.edit_set_id", "facts.position"]),
    )


class Supersession(Base):
    """Two facts that answer one question: a version that holds both leaves the older out."""

    __tablename__ = "supersessions"
    older_edit_set_id: Mapped[str] = mapped_column(primary_key=True)
    older_position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    newer_edit_set_id: Mapped[str] = mapped_column(primary_key=True)
    newer_position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    __table_args__ = (
        ForeignKeyConstraint(
            ["older_edit_set_id", "older_position"], ["facts.edit_set_id", "facts.position"]
        ),
        ForeignKeyConstraint(
            ["newer_edit_set_id", "newer_position"], ["facts.edit_set_id", "facts.position"]
        ),
        Index(None, "newer_edit_set_id"),
    )


class Withdrawal(Base):
    """A request to take edit sets and facts out of the live version."""

    __tablename__ = "withdrawals"
    id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = sequence()
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    status: Mapped[str] = mapped_column(server_default=text("'queued'"))
    edit_set_ids: Mapped[list[str]]
    fact_ids: Mapped[list[str]]
    reason: Mapped[str]
    version_number: Mapped[int | None]
    report: Mapped[Json | None]
    error: Mapped[Json | None]
    created_at: Mapped[datetime] = now()
    created_by: Mapped[str]
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        ForeignKeyConstraint(
            ["model_id", "version_number"], ["versions.model_id", "versions.number"], use_alter=True
        ),
    )


class Job(Base):
    """Work for a worker: who holds it, until when, and under which fence."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    kind: Mapped[str]
    edit_set_id: Mapped[str | None] = mapped_column(ForeignKey("edit_sets.id"), unique=True)
    withdrawal_id: Mapped[str | None] = mapped_column(ForeignKey("withdrawals.id"), unique=True)
    fence: Mapped[int] = mapped_column(server_default=text("0"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    holder: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    waiting_since: Mapped[datetime] = now()
    claimed_at: Mapped[datetime | None]
    stage: Mapped[str | None]
    stage_done: Mapped[int] = mapped_column(server_default=text("0"))
    stage_total: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = now()
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        CheckConstraint(
            "kind = 'edit' AND edit_set_id IS NOT NULL AND withdrawal_id IS NULL"
            " OR kind = 'withdraw' AND edit_set_id IS NULL AND withdrawal_id IS NOT NULL",
            name="subject",
        ),
        Index(
            "jobs_unfinished_idx", "model_id", "waiting_since", postgresql_where=text("finished_at IS NULL")
        ),
    )


class Version(Base):
    """One link of a model's chain."""

    __tablename__ = "versions"
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str]
    parent: Mapped[int | None]
    restores: Mapped[int | None]
    edit_set_id: Mapped[str | None] = mapped_column(ForeignKey("edit_sets.id"), unique=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), unique=True)
    members_digest: Mapped[str | None]
    edit_set_count: Mapped[int]
    live_fact_count: Mapped[int]
    base_digest: Mapped[str]
    editor_digest: Mapped[str] = mapped_column(ForeignKey("editors.digest"))
    delta_digest: Mapped[str | None] = mapped_column(ForeignKey("blobs.digest"))
    weights_digest: Mapped[str | None]
    statistics_digest: Mapped[str | None] = mapped_column(ForeignKey("blobs.digest"))
    fact_reports_digest: Mapped[str]
    report: Mapped[Json | None]
    gate_met: Mapped[bool]
    reason: Mapped[str | None]
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    previous_hash: Mapped[str | None]
    hash: Mapped[str] = mapped_column(unique=True)
    __table_args__ = (
        CheckConstraint("kind IN ('base', 'edit', 'rollback', 'withdraw')", name="kind"),
        CheckConstraint("(kind = 'edit') = (edit_set_id IS NOT NULL)", name="edit_set"),
        CheckConstraint("(kind = 'rollback') = (restores IS NOT NULL)", name="restores"),
        CheckConstraint("number > 0 OR kind = 'base'", name="genesis"),
        CheckConstraint("(number = 0) = (parent IS NULL)", name="parent"),
        CheckConstraint("(number = 0) = (previous_hash IS NULL)", name="previous"),
        CheckConstraint("parent < number AND restores < number", name="order"),
        ForeignKeyConstraint(["model_id", "parent"], ["versions.model_id", "versions.number"]),
        ForeignKeyConstraint(["model_id", "restores"], ["versions.model_id", "versions.number"]),
    )


class Membership(Base):
    """An edit set that some versions hold, but for the facts at the withdrawn and superseded positions.

    They are those numbered from `from_version` on, up to and without `to_version`; see `versions.members`.
    """

    __tablename__ = "memberships"
    model_id: Mapped[str] = mapped_column(primary_key=True)
    edit_set_id: Mapped[str] = mapped_column(ForeignKey("edit_sets.id"), primary_key=True)
    from_version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    to_version: Mapped[int | None]
    statistics_digest: Mapped[str] = mapped_column(ForeignKey("blobs.digest"))
    withdrawn: Mapped[list[int]]
    superseded: Mapped[list[int]]
    __table_args__ = (
        CheckConstraint("from_version < to_version", name="order"),
        ForeignKeyConstraint(["model_id", "from_version"], ["versions.model_id", "versions.number"]),
        ForeignKeyConstraint(["model_id", "to_version"], ["versions.model_id", "versions.number"]),
        Index(None, "model_id", "from_version"),
        Index(None, "model_id", "to_version"),
    )


class FactReportRow(Base):
    """What a version's verification measured for one fact."""

    __tablename__ = "fact_reports"
    model_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    edit_set_id: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    report: Mapped[Json]
    __table_args__ = (
        ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
        ForeignKeyConstraint(["edit_set_id", "position"], ["facts.edit_set_id", "facts.position"]),
        Index(None, "edit_set_id", "position"),
    )


class TrialReport(Base):
    """What a dry run measured for one fact; there is no version of it."""

    __tablename__ = "trial_reports"
    edit_set_id: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    report: Mapped[Json]
    __table_args__ = (
        ForeignKeyConstraint(["edit_set_id", "position"], ["facts.edit_set_id", "facts.position"]),
    )


class Alias(Base):
    """A name for a version; live is the one served by default."""

    __tablename__ = "aliases"
    model_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
    updated_at: Mapped[datetime] = now()
    updated_by: Mapped[str]
    __table_args__ = (ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),)


class IdempotencyKey(Base):
    """The first answer under an Idempotency-Key of one API key, kept for a day; that of an edit set is itself."""

    __tablename__ = "idempotency_keys"
    key_id: Mapped[str] = mapped_column(primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    body_digest: Mapped[str]
    edit_set_id: Mapped[str | None] = mapped_column(
        ForeignKey("edit_sets.id", deferrable=True, initially="DEFERRED")
    )
    answer: Mapped[Json | None]
    created_at: Mapped[datetime] = now()
    __table_args__ = (Index(None, "created_at"),)


class AuditEvent(Base):
    """Who did what to which object, and when."""

    __tablename__ = "audit_events"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = now()
    actor: Mapped[str]
    action: Mapped[str]
    object: Mapped[str]
    detail: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))
    __table_args__ = (Index(None, "object"),)

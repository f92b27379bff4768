"""Registered base models: preparing, then ready with an editor, or failed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.auth import audit
from ledger.blobs import refs
from ledger.db import queries
from ledger.db.engine import Transaction
from ledger.db.tables import Alias, Editor, Model
from ledger.errors import AlreadyExists, InvalidName, ModelNotReady, NotFound
from ledger.integrity.chain import storable
from ledger.jobs import jobs
from ledger.records import Actor, Json, ModelRecord, Page
from ledger.states import ModelStatus

DEFAULT_GATE: Json = {
    "edit_success": 0.9,
    "generation_success": 0.8,
    "neighbours_unchanged": 0.5,
    "perplexity_ratio": 1.1,
    "retention": 0.9,
}
FIELDS = {
    "revision": "/revision",
    "modules": "/modules",
    "asked": "/revision",
    "gate": "/gate",
    "given_editor_digest": "/editor",
}
FETCHED = ("revision", "architecture", "context_length", "modules", "digest")
"""What `inspected` fills in; what was asked for instead stands in `asked`."""
UNUSABLE = ("failed", "archived")
MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def _select(*more: Any) -> Select[*tuple[Any, ...]]:
    aliases = select(func.jsonb_object_agg(Alias.name, Alias.number)).where(Alias.model_id == Model.id)
    editors = select(Model, Editor.card, aliases.scalar_subquery().label("aliases"), *more)
    return editors.outerjoin(Editor, Editor.digest == Model.editor_digest)


def _record(row: Any) -> ModelRecord:
    model: Model = row.Model
    status: ModelStatus = model.status  # type: ignore[assignment]  # a check constraint holds it
    return ModelRecord(
        id=model.id,
        source=model.source,
        revision=model.revision,
        architecture=model.architecture,
        context_length=model.context_length,
        modules=tuple(model.modules),
        digest=model.digest,
        gate=model.gate,
        status=status,
        editor_digest=model.editor_digest,
        editor_card=row.card,
        given_editor_digest=model.given_editor_digest,
        canaries=model.canaries,
        base_parameters_digest=model.base_parameters_digest,
        error=model.error,
        asked=model.asked,
        progress=model.progress,
        aliases=dict(sorted((row.aliases or {}).items())),
        created_at=model.created_at,
        created_by=model.created_by,
    )


def get(session: Session, model_id: str) -> ModelRecord:
    """Return a model.

    Raises:
        NotFound: there is no such model.
    """
    return _record(_find(session, model_id))


def _find(session: Session, model_id: str, *more: Any) -> Any:
    """Return a model's row with its editor's card, its aliases and more columns."""
    row = None
    if queries.can_be_id(model_id):
        query = _select(*more).where(Model.id == model_id)
        row = session.execute(query, execution_options={"populate_existing": True}).one_or_none()
    if row is None:
        raise NotFound("model", model_id)
    return row


def get_with(session: Session, model_id: str, *more: Any) -> tuple[ModelRecord, Any]:
    """Return a model, and the row that has more columns, from one statement; NotFound as `get`."""
    row = _find(session, model_id, *more)
    return _record(row), row


def list_all(session: Session, limit: int = 50, cursor: str | None = None) -> Page[ModelRecord]:
    """Return a page of models that are not archived, newest first."""
    query = _select().where(Model.status != "archived")
    return queries.page(session, query, Model.seq, "models", limit, cursor, _record)


def register(
    tx: Transaction,
    id: str,  # noqa: A002 - the word that clients use
    source: str,
    revision: str | None,
    info: Json | None,
    editor: bytes | str | None = None,
    gate: Json | None = None,
    *,
    modules: Sequence[str] | None = None,
    actor: Actor,
) -> ModelRecord:
    """Register a base model, to be prepared by a worker; registering the same again changes nothing.

    Args:
        tx: the transaction.
        id: letters, digits, dots, dashes and underscores.
        source: hub id or folder.
        revision: of the hub's repository.
        info: architecture, context_length, modules and digest of the checkpoint; None if a worker is to fetch
            it, and say so with `inspected`.
        editor: the editor to use, or the digest of one that was uploaded; None to have one calibrated.
        gate: thresholds in place of the defaults.
        modules: those to edit, where there is no info; None for the default.
        actor: who asks.

    Raises:
        InvalidName: the id is not allowed.
        AlreadyExists: another model has this id. One that failed or was archived may be registered anew.
        NotFound: no editor with this digest was uploaded.
        UnstorableText, NotANumber: text or numbers that cannot be recorded.
    """
    if not MODEL_ID.fullmatch(id):
        rule = "up to 128 letters, digits, dots, dashes and underscores, the first a letter or digit"
        raise InvalidName("model id", id, rule, "/id")
    digest = tx.blobs.put(editor) if isinstance(editor, bytes) else editor
    if isinstance(editor, str):
        queries.find(tx, Editor, editor, "editor")
    refs.record(tx, digest, "editor")
    asked = {"revision": storable(revision, "/revision"), "modules": list(modules) if modules else None}
    known = info or {"architecture": "", "context_length": 0, "modules": modules or (), "digest": ""}
    wanted: dict[str, Any] = {
        "source": storable(source, "/source"),
        "revision": storable(revision, "/revision"),
        "architecture": known["architecture"],
        "context_length": known["context_length"],
        "modules": storable(list(known["modules"]), "/modules"),
        "digest": known["digest"],
        "asked": asked if info is None else None,
        "gate": storable({**DEFAULT_GATE, **(gate or {})}, "/gate"),
        "given_editor_digest": digest,
    }
    made = tx.execute(
        insert(Model)
        .values(id=id, created_by=audit.actor_name(actor), **wanted)
        .on_conflict_do_nothing(index_elements=["id"])
        .returning(Model.id)
    ).scalar()
    model = queries.find(tx, Model, id, "model", lock=True)
    if made is None and model.status in UNUSABLE:
        jobs.cancel_all(tx, id, actor, withdrawals=True)  # what was accepted while it was being archived
        cleared = dict.fromkeys(("editor_digest", "canaries", "base_parameters_digest", "error", "progress"))
        for name, value in {**wanted, **cleared, "status": "preparing"}.items():
            setattr(model, name, value)
    elif made is None:
        for name, value in wanted.items():
            if getattr(model, name) != value and not (info is None and name in FETCHED):
                raise AlreadyExists("model", id, FIELDS.get(name, "/source"))
        return get(tx, id)
    tx.flush()
    audit.record(tx, actor, "model.register", f"models/{id}", wanted)
    return get(tx, id)


def fail(session: Session, model_id: str, error: Json) -> ModelRecord:
    """Note that a model cannot be used, and why; a ready one stays ready.

    Raises:
        NotFound: there is no such model.
    """
    model = queries.find(session, Model, model_id, "model", lock=True)
    if model.status == "preparing":
        model.status, model.error, model.progress = "failed", storable(error), None
        session.flush()
        audit.record(session, "worker", "model.fail", f"models/{model_id}", {"error": error})
    return get(session, model_id)


def inspected(session: Session, model_id: str, revision: str | None, info: Json) -> ModelRecord:
    """Note what a worker has found of a checkpoint that was not read at registration, at which commit.

    The first to say so says it for all; who finds another checkpoint refuses it later.

    Raises:
        NotFound: there is no such model.
    """
    model = queries.find(session, Model, model_id, "model", lock=True)
    if model.status == "preparing" and not model.digest:
        model.revision, model.modules = revision, list(info["modules"])
        model.architecture, model.context_length = info["architecture"], info["context_length"]
        model.digest = info["digest"]
        session.flush()
        audit.record(session, "worker", "model.inspect", f"models/{model_id}", {"revision": revision, **info})
    return get(session, model_id)


def note_progress(session: Session, model_id: str, stage: str, done: int, total: int) -> None:
    """Note how far the preparation of a model is; nothing if that is over."""
    session.execute(
        update(Model)
        .where(Model.id == model_id, Model.status == "preparing")
        .values(progress={"stage": stage, "done": done, "total": total})
    )


def keep_editor(tx: Transaction, editor: bytes, card: Json, actor: Actor) -> str:
    """Keep an uploaded editor, and return its digest, by which models are registered with it.

    Raises:
        BlobStoreUnavailable: it cannot be stored.
    """
    digest = tx.blobs.put(editor)
    refs.record(tx, digest, "editor")
    made = tx.execute(
        insert(Editor)
        .values(digest=digest, card=storable(card, "/card"))
        .on_conflict_do_nothing()
        .returning(Editor.digest)
    ).scalar()
    if made is not None:
        audit.record(tx, actor, "editor.upload", f"editors/{digest}", {"bytes": len(editor)})
    return digest


def editor(tx: Transaction, digest: str) -> bytes:
    """Return an editor that was uploaded, or that a model uses or has used.

    Raises:
        NotFound: there is none with this digest.
        BlobMissing, BlobCorrupt: it cannot be read.
    """
    return tx.blobs.get(queries.find(tx, Editor, digest, "editor").digest)


def check_usable(model: ModelRecord) -> None:
    """Refuse a model that is not ready and never will be.

    Raises:
        ModelNotReady: it failed, or is archived.
    """
    if model.status in UNUSABLE:
        raise ModelNotReady(model.id, model.status, (model.error or {}).get("detail", ""))

"""Registered base models: preparing, then ready with an editor, or failed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.auth import audit
from ledger.blobs import refs
from ledger.blobs.store import Blobs
from ledger.db import queries
from ledger.db.tables import Alias, Editor, Model
from ledger.errors import AlreadyExists, InvalidName, ModelNotReady
from ledger.integrity.chain import storable
from ledger.records import Actor, Json, ModelRecord, Page
from ledger.states import ModelStatus

DEFAULT_GATE: Json = {"edit_success": 0.9, "locality": 0.8, "perplexity_ratio": 1.1, "retention": 0.9}
FIELDS = {"revision": "/revision", "modules": "/modules", "gate": "/gate", "given_editor_digest": "/editor"}
MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def _records(session: Session, models: Sequence[Model]) -> list[ModelRecord]:
    aliases: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for alias in session.scalars(select(Alias).where(Alias.model_id.in_([model.id for model in models]))):
        aliases[alias.model_id][alias.name] = alias.number
    digests = {model.editor_digest for model in models if model.editor_digest}
    cards = {
        editor.digest: editor.card
        for editor in session.scalars(select(Editor).where(Editor.digest.in_(digests)))
    }
    return [_record(model, dict(sorted(aliases[model.id].items())), cards) for model in models]


def _record(model: Model, aliases: dict[str, int], cards: dict[str, dict[str, object]]) -> ModelRecord:
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
        editor_card=cards.get(model.editor_digest) if model.editor_digest else None,
        given_editor_digest=model.given_editor_digest,
        canaries=model.canaries,
        base_parameters_digest=model.base_parameters_digest,
        error=model.error,
        aliases=aliases,
        created_at=model.created_at,
        created_by=model.created_by,
    )


def get(session: Session, model_id: str) -> ModelRecord:
    """Return a model.

    Raises:
        NotFound: there is no such model.
    """
    return _records(session, [queries.find(session, Model, model_id, "model")])[0]


def list_all(session: Session, limit: int, cursor: str | None) -> Page[ModelRecord]:
    """Return a page of models, newest first."""
    return queries.page(
        session, select(Model), Model.seq, "models", limit, cursor, lambda found: _records(session, found)
    )


@dataclass(frozen=True)
class Registration:
    """A base model as it is registered.

    Attributes:
        id: letters, digits, dots, dashes and underscores.
        source: hub id or folder.
        revision: of the hub's repository.
        info: architecture, context_length, modules and digest of the checkpoint.
        editor: digest of the editor to use; None to have one calibrated.
        gate: thresholds in place of the defaults.
    """

    id: str
    source: str
    revision: str | None
    info: Json
    editor: str | None
    gate: Json | None

    def columns(self) -> dict[str, Any]:
        """Return what the model's row says of it, with every text checked."""
        return {
            "source": storable(self.source, "/source"),
            "revision": storable(self.revision, "/revision"),
            "architecture": self.info["architecture"],
            "context_length": self.info["context_length"],
            "modules": list(self.info["modules"]),
            "digest": self.info["digest"],
            "gate": storable({**DEFAULT_GATE, **(self.gate or {})}, "/gate"),
            "given_editor_digest": self.editor,
        }


def register(session: Session, store: Blobs, asked: Registration, actor: Actor) -> ModelRecord:
    """Register a base model, to be prepared by a worker; registering the same again changes nothing.

    Raises:
        InvalidName: the id is not allowed.
        AlreadyExists: another model has this id. One that failed may be registered anew.
        UnstorableText, NotANumber: text or numbers that cannot be recorded.
    """
    if not MODEL_ID.fullmatch(asked.id):
        rule = "up to 128 letters, digits, dots, dashes and underscores, the first a letter or digit"
        raise InvalidName("model id", asked.id, rule, "/id")
    refs.record(session, store, asked.editor, "editor")
    wanted = asked.columns()
    made = session.execute(
        insert(Model)
        .values(id=asked.id, created_by=audit.actor_name(actor), **wanted)
        .on_conflict_do_nothing(index_elements=["id"])
        .returning(Model.id)
    ).scalar()
    model = queries.find(session, Model, asked.id, "model", lock=True)
    if made is None and model.status == "failed":
        for name, value in wanted.items():
            setattr(model, name, value)
        model.status, model.error = "preparing", None
    elif made is None:
        for name, value in wanted.items():
            if getattr(model, name) != value:
                raise AlreadyExists("model", asked.id, FIELDS.get(name, "/source"))
        return get(session, asked.id)
    session.flush()
    audit.record(session, actor, "model.register", f"models/{asked.id}", wanted)
    return get(session, asked.id)


def fail(session: Session, model_id: str, error: Json) -> ModelRecord:
    """Note that a model cannot be used, and why; a ready one stays ready.

    Raises:
        NotFound: there is no such model.
    """
    model = queries.find(session, Model, model_id, "model", lock=True)
    if model.status == "preparing":
        model.status, model.error = "failed", storable(error)
        session.flush()
        audit.record(session, "worker", "model.fail", f"models/{model_id}", {"error": error})
    return get(session, model_id)


def require_usable(session: Session, model_id: str) -> ModelRecord:
    """Return a model that is ready or will be.

    Raises:
        NotFound: there is no such model.
        ModelNotReady: it failed.
    """
    model = get(session, model_id)
    if model.status == "failed":
        raise ModelNotReady(model_id, model.status)
    return model

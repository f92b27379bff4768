"""The part of the ledger that the API uses: keys, models, edit sets and facts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ledger.auth import keys
from ledger.blobs.store import Blobs
from ledger.db.engine import Database
from ledger.edits import edit_sets, facts
from ledger.models import models
from ledger.records import Actor, EditSetRecord, FactRecord, Json, KeyRecord, ModelRecord, Page
from ledger.states import EditSetStatus, OnConflict, Promote


class Accepting:
    """Methods on keys, models, edit sets and facts; each is one transaction."""

    database: Database
    blobs: Blobs

    def create_key(
        self, name: str, scopes: Collection[str], secret: str | None = None, *, actor: Actor
    ) -> tuple[KeyRecord, str]:
        """Make a key; see `keys.create`."""
        with self.database.transaction() as session:
            return keys.create(session, name, scopes, secret, actor)

    def authenticate(self, secret: str) -> KeyRecord | None:
        """Return the key with this secret, unless it is revoked."""
        with self.database.transaction() as session:
            return keys.authenticate(session, secret)

    def ensure_admin_key(self, secret: str) -> KeyRecord:
        """Make the secret the administrator's; idempotent. See `keys.ensure_admin`."""
        with self.database.transaction() as session:
            return keys.ensure_admin(session, secret)

    def list_keys(self, limit: int = 50, cursor: str | None = None) -> Page[KeyRecord]:
        """Return a page of keys, newest first."""
        with self.database.transaction() as session:
            return keys.list_all(session, limit, cursor)

    def revoke_key(self, key_id: str, actor: Actor) -> KeyRecord:
        """Revoke a key; see `keys.revoke`."""
        with self.database.transaction() as session:
            return keys.revoke(session, key_id, actor)

    def register_model(
        self,
        id: str,  # noqa: A002 - the word that clients use
        source: str,
        revision: str | None,
        info: Json,
        editor: bytes | None = None,
        gate: Json | None = None,
        *,
        actor: Actor,
    ) -> ModelRecord:
        """Register a base model; see `models.register`. The editor's bytes are stored first."""
        digest = None if editor is None else self.blobs.put(editor)
        asked = models.Registration(id, source, revision, info, digest, gate)
        with self.database.transaction() as session:
            return models.register(session, self.blobs, asked, actor)

    def get_model(self, model_id: str) -> ModelRecord:
        """Return a model; NotFound if there is none."""
        with self.database.transaction() as session:
            return models.get(session, model_id)

    def list_models(self, limit: int = 50, cursor: str | None = None) -> Page[ModelRecord]:
        """Return a page of models, newest first."""
        with self.database.transaction() as session:
            return models.list_all(session, limit, cursor)

    def fail_model(self, model_id: str, error: Json) -> ModelRecord:
        """Note why a model cannot be used; see `models.fail`."""
        with self.database.transaction() as session:
            return models.fail(session, model_id, error)

    def accept(
        self,
        model_id: str,
        facts: Sequence[Mapping[str, Any]],
        promote: Promote = "auto",
        gate: Json | None = None,
        edit_on_rephrasings: bool = False,
        note: str | None = None,
        on_conflict: OnConflict = "replace",
        dry_run: bool = False,
        *,
        actor: KeyRecord,
        idempotency_key: str | None = None,
        body_digest: str = "",
    ) -> tuple[EditSetRecord, bool]:
        """Accept an edit set; see `edit_sets.accept`."""
        asked = edit_sets.Order(
            model_id, facts, promote, gate, edit_on_rephrasings, note, on_conflict, dry_run
        )
        with self.database.transaction() as session:
            return edit_sets.accept(session, asked, actor, idempotency_key, body_digest)

    def first_answer(
        self, actor: KeyRecord, idempotency_key: str | None, body_digest: str
    ) -> EditSetRecord | None:
        """Return what was accepted under an idempotency key before; see `edit_sets.first_answer`."""
        if idempotency_key is None:
            return None
        with self.database.transaction() as session:
            return edit_sets.first_answer(session, actor, idempotency_key, body_digest)

    def get_edit_set(self, edit_set_id: str) -> EditSetRecord:
        """Return an edit set; NotFound if there is none."""
        with self.database.transaction() as session:
            return edit_sets.get(session, edit_set_id)

    def list_edit_sets(
        self,
        limit: int = 50,
        cursor: str | None = None,
        *,
        model_id: str | None = None,
        status: EditSetStatus | None = None,
    ) -> Page[EditSetRecord]:
        """Return a page of edit sets, newest first."""
        with self.database.transaction() as session:
            return edit_sets.list_all(session, limit, cursor, model_id, status)

    def get_facts(self, edit_set_id: str, limit: int = 50, cursor: str | None = None) -> Page[FactRecord]:
        """Return a page of an edit set's facts with their reports."""
        with self.database.transaction() as session:
            return facts.list_of(session, edit_set_id, limit, cursor)

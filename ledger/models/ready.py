"""Version 0: the base itself, made when a model becomes ready. Its chain starts there.

A model that was archived and is registered again goes on with its chain: its new base is the next version.
"""

from __future__ import annotations

from sqlalchemy.dialects.postgresql import insert

from ledger.auth import audit
from ledger.blobs import refs
from ledger.db import queries
from ledger.db.engine import Transaction
from ledger.db.tables import Editor, Head, Model
from ledger.errors import ModelNotReady
from ledger.integrity import set_digest
from ledger.integrity.chain import storable
from ledger.models import aliases, models
from ledger.records import Actor, Json, ModelRecord
from ledger.versions import members, versions


def mark_ready(
    tx: Transaction,
    model_id: str,
    editor_bytes: bytes,
    editor_card: Json,
    canaries: Json,
    base_parameters_digest: str,
    *,
    actor: Actor,
    weights_digest: str | None = None,
) -> ModelRecord:
    """Make a prepared model ready: its editor, its canaries, version 0 and the alias live.

    A model that is ready already stays as it is, so that several workers may prepare it at once.
    `weights_digest` is that of the base's weights of the edited modules, for version 0.

    Raises:
        NotFound: there is no such model.
        ModelNotReady: it was archived in the meantime.
        BlobStoreUnavailable: the editor cannot be stored.
    """
    model = queries.find(tx, Model, model_id, "model", lock=True)
    if model.status == "ready":
        return models.get(tx, model_id)
    if model.status == "archived":
        raise ModelNotReady(model_id, model.status)
    editor_digest = tx.blobs.put(editor_bytes)
    refs.record(tx, editor_digest, "editor")
    card = storable(editor_card, "/editor_card")
    tx.execute(insert(Editor).values(digest=editor_digest, card=card).on_conflict_do_nothing())
    model.status, model.error, model.progress = "ready", None, None
    model.editor_digest = editor_digest
    model.canaries = storable(canaries, "/canaries")
    model.base_parameters_digest = base_parameters_digest
    tx.flush()
    head = tx.get(Head, model_id, with_for_update=True, populate_existing=True)
    again = head is not None
    if head is None:
        head = Head(model_id=model_id, number=0, hash="", members_state=set_digest.EMPTY)
        tx.add(head)
    version = versions.append(
        tx,
        head,
        versions.Draft(
            kind="base",
            parent=head.number if again else None,
            like=head.number,
            change=dict.fromkeys(members.at(tx, model_id, head.number)),
            delta_digest=None,
            weights_digest=weights_digest,
            gate_met=True,
            created_by=audit.actor_name(actor),
        ),
    )
    aliases.point(tx, model_id, versions.LIVE, version.number, actor)
    detail = {"editor_digest": editor_digest, "hash": version.hash}
    audit.record(tx, actor, "model.complete", f"models/{model_id}", detail)
    return models.get(tx, model_id)

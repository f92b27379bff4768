"""Keys: make, list, revoke."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response

from ledger.auth import keys
from service import views
from service.context import Tx
from service.guard import AdminKey, Repeatable
from service.routes import OBJECT_ID, Paging, problems, router
from service.schemas.base import Paged
from service.schemas.keys import KeyBody, KeyView, NewKeyView

routes = router("keys")
KeyId = Annotated[str, Path(pattern=OBJECT_ID, description="Id of a key.")]


@routes.post("/admin/keys", status_code=201, responses=problems(400, 413, 415, 422))
def make_key(body: KeyBody, tx: Tx, key: AdminKey, response: Response, _: Repeatable) -> NewKeyView:
    """Make a key. The secret is in this answer only: the ledger keeps its hash."""
    record, secret = keys.create(tx, body.name, set(body.scopes), actor=key, expires_at=body.expires_at)
    response.headers["Location"] = f"/admin/keys/{record.id}"
    response.headers["Cache-Control"] = "no-store"
    return NewKeyView(secret=secret, **views.key(record).model_dump())


@routes.get("/admin/keys", responses=problems(422))
def list_keys(asked: Paging, tx: Tx, _: AdminKey) -> Paged[KeyView]:
    """Keys, newest first; those that were revoked or have expired too."""
    page = keys.list_all(tx, limit=asked.limit, cursor=asked.cursor)
    return Paged(items=[views.key(record) for record in page.items], next_cursor=page.next_cursor)


@routes.get("/admin/keys/{key_id}", responses=problems(404))
def get_key(key_id: KeyId, tx: Tx, _: AdminKey) -> KeyView:
    """One key."""
    return views.key(keys.get(tx, key_id))


@routes.delete("/admin/keys/{key_id}", status_code=204, responses=problems(404))
def revoke_key(key_id: KeyId, tx: Tx, key: AdminKey) -> None:
    """Revoke a key at once. What was done with it stays in the ledger."""
    keys.revoke(tx, key_id, key)

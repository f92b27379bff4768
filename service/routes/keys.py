"""Keys: make, list, revoke."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response

from ledger.errors import NotFound
from service import views
from service.context import ServicesDep
from service.guard import AdminKey
from service.paging import every
from service.routes import OBJECT_ID, Paging, problems, router
from service.schemas.base import Paged
from service.schemas.keys import KeyBody, KeyView, NewKeyView

routes = router("keys")
KeyId = Annotated[str, Path(pattern=OBJECT_ID, description="Id of a key.")]


@routes.post("/admin/keys", status_code=201, responses=problems(400, 413, 415, 422))
def make_key(body: KeyBody, services: ServicesDep, key: AdminKey, response: Response) -> NewKeyView:
    """Make a key. The secret is in this answer only: the ledger keeps its hash."""
    record, secret = services.ledger.create_key(body.name, set(body.scopes), actor=key)
    response.headers["Location"] = f"/admin/keys/{record.id}"
    response.headers["Cache-Control"] = "no-store"
    return NewKeyView(secret=secret, **views.key(record).model_dump())


@routes.get("/admin/keys", responses=problems(422))
def list_keys(asked: Paging, services: ServicesDep, _: AdminKey) -> Paged[KeyView]:
    """Keys, newest first, revoked ones too."""
    page = services.ledger.list_keys(limit=asked.limit, cursor=asked.cursor)
    return Paged(items=[views.key(record) for record in page.items], next_cursor=page.next_cursor)


@routes.get("/admin/keys/{key_id}", responses=problems(404))
def get_key(key_id: KeyId, services: ServicesDep, _: AdminKey) -> KeyView:
    """One key."""
    for record in every(services.ledger.list_keys):
        if record.id == key_id:
            return views.key(record)
    raise NotFound("key", key_id)


@routes.delete("/admin/keys/{key_id}", status_code=204, responses=problems(404))
def revoke_key(key_id: KeyId, services: ServicesDep, key: AdminKey) -> None:
    """Revoke a key at once. What was done with it stays in the ledger."""
    services.ledger.revoke_key(key_id, key)

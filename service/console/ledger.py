"""The ledger: the state of its chains, who did what, and keys."""

from __future__ import annotations

from datetime import date, datetime, time
from zoneinfo import ZoneInfo

from fastapi import Request, Response

from ledger.auth import audit, keys
from ledger.models import models
from ledger.versions import versions
from service import views
from service.console.forms import text, validated
from service.console.rendering import go, page, router
from service.console.session import AdminSession, Form, ReadSession
from service.context import ServicesDep, Tx
from service.paging import every
from service.routes import keys as api_keys
from service.routes.ledger import verify_ledger
from service.schemas.keys import KeyBody, NewKeyView

routes = router()
EVENTS = 50


@routes.get("/ledger")
def show_ledger(
    request: Request,
    tx: Tx,
    key: ReadSession,
    object: str = "",  # noqa: A002 - the word that the API uses
    actor: str = "",
    action: str = "",
    since: date | str = "",
    cursor: str | None = None,
) -> Response:
    """The heads of all chains; for administrators, the audit events too."""
    ready = [each for each in every(tx, models.list_all) if each.live_version is not None]
    heads = [views.version(versions.list_all(tx, each.id, 1).items[0]) for each in ready]
    begin = datetime.combine(since, time(), ZoneInfo("UTC")) if isinstance(since, date) else None
    events = None
    if keys.grants(key, "admin"):
        asked = {"target": object or None, "actor": actor or None, "action": action or None}
        events = audit.list_all(tx, EVENTS, cursor, **asked, since=begin)
    return page(
        request,
        "ledger.html",
        heads=heads,
        events=events,
        names=keys.names(tx),
        asked={"object": object, "actor": actor, "action": action, "since": str(since)},
    )


@routes.post("/ledger/verify")
def verify(request: Request, services: ServicesDep, key: AdminSession) -> Response:
    """Walk every chain and every blob."""
    return page(request, "verified.html", check=verify_ledger(services, key))


@routes.get("/keys")
def list_keys(request: Request, tx: Tx, _: AdminSession) -> Response:
    """Keys, newest first."""
    return _keys(request, tx, None)


@routes.post("/keys")
def make_key(request: Request, tx: Tx, form: Form, key: AdminSession) -> Response:
    """Make a key, and show its secret this once."""
    fields = {"name": text(form, "name") or "", "expires_at": text(form, "expires_at")}
    body = validated(KeyBody, {**fields, "scopes": form.getlist("scopes")})
    return _keys(request, tx, api_keys.make_key(body, tx, key, Response(), None))


def _keys(request: Request, tx: Tx, made: NewKeyView | None) -> Response:
    shown = [views.key(each) for each in every(tx, keys.list_all)]
    return page(request, "keys.html", keys=shown, made=made, names=keys.names(tx))


@routes.post("/keys/{key_id}/revoke")
def revoke_key(key_id: str, request: Request, tx: Tx, key: AdminSession) -> Response:
    """Revoke a key."""
    api_keys.revoke_key(key_id, tx, key)
    return go(request, "/keys")

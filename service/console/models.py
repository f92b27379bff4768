"""Models: cards, registration, aliases, rollback."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from ledger.db.engine import Transaction
from ledger.edits import edit_sets
from ledger.models import models as ledger_models
from ledger.versions import versions
from service import views
from service.console.forms import choice, floats, lines, text, validated
from service.console.rendering import go, page, router
from service.console.session import AdminSession, Form, ReadSession
from service.context import ServicesDep, Tx
from service.routes import ModelId, admin_models
from service.routes.models import get_model
from service.schemas.models import AliasBody, ModelView, RegisterModel, RollbackBody, RollbackPreview

routes = router()
MOST_CARDS = 24


@routes.get("/models")
def list_models(
    request: Request, services: ServicesDep, tx: Tx, key: ReadSession, cursor: str | None = None
) -> Response:
    """A card for each model."""
    found = ledger_models.list_all(tx, MOST_CARDS, cursor)
    cards = [_card(tx, get_model(each.id, services, tx, key)) for each in found.items]
    return page(request, "models.html", cards=cards, next_cursor=found.next_cursor)


@routes.get("/models/{model_id}/card")
def show_card(
    model_id: ModelId, request: Request, services: ServicesDep, tx: Tx, key: ReadSession
) -> Response:
    """One card, which asks for itself again while the model is being prepared."""
    return page(request, "card.html", card=_card(tx, get_model(model_id, services, tx, key)))


def _card(tx: Transaction, model: ModelView) -> dict[str, Any]:
    """A model with how many facts are live and what was last asked of it."""
    ready = model.live_version is not None
    last = edit_sets.list_all(tx, 1, model_id=model.id).items
    return {
        "model": model,
        "live_facts": versions.live(tx, model.id).live_fact_count if ready else None,
        "last_edit": views.edit_set(last[0]) if last else None,
    }


@routes.post("/models")
def register_model(
    request: Request, services: ServicesDep, tx: Tx, form: Form, key: AdminSession
) -> Response:
    """Register a model; its card then shows how far it is."""
    body = validated(
        RegisterModel,
        {
            "id": text(form, "id") or "",
            "source": text(form, "source") or "",
            "revision": text(form, "revision"),
            "editor": text(form, "editor"),
            "modules": lines(form, "modules") or None,
            "gate": floats(form, "gate."),
        },
    )
    admin_models.register_model(body, services, tx, key, Response(), None)
    return go(request, "/models")


@routes.post("/models/{model_id}/archive")
def archive_model(model_id: ModelId, request: Request, tx: Tx, key: AdminSession) -> Response:
    """Archive a model."""
    admin_models.archive_model(model_id, tx, key)
    return go(request, "/models")


@routes.post("/models/{model_id}/aliases")
def put_alias(
    model_id: ModelId, request: Request, services: ServicesDep, tx: Tx, form: Form, key: AdminSession
) -> Response:
    """Point an alias at a version; `live` promotes it."""
    number = choice(form, "version")
    body = validated(
        AliasBody,
        {"version": number, "force": text(form, "force") is not None, "reason": text(form, "reason")},
    )
    admin_models.put_alias(model_id, text(form, "name") or "live", body, services, tx, key, Response())
    return go(request, f"/models/{model_id}/versions/{number}")


@routes.post("/models/{model_id}/rollback")
def roll_back(
    model_id: ModelId, request: Request, services: ServicesDep, tx: Tx, form: Form, key: AdminSession
) -> Response:
    """Roll back to a version, or withdraw edit sets and facts; or say first what that would change."""
    withdrawn = {"edit_sets": lines(form, "edit_set"), "facts": lines(form, "fact")}
    asked: dict[str, Any] = {
        "reason": text(form, "reason") or "",
        "cancel_queued": text(form, "cancel_queued") is not None,
        "dry_run": text(form, "dry_run") is not None,
    }
    if any(withdrawn.values()):
        asked["withdraw"] = withdrawn
    else:
        asked["to_version"] = choice(form, "to_version")
    if asked["dry_run"]:
        asked["reason"] = asked["reason"] or "dry run"
    body = validated(RollbackBody, asked)
    made = admin_models.roll_back(model_id, body, services, tx, key, Response(), None)
    if isinstance(made, RollbackPreview):
        return page(request, "rollback_preview.html", preview=made)
    if isinstance(made, JSONResponse):
        return go(request, f"/withdrawals/{made.headers['Location'].rpartition('/')[2]}")
    return go(request, f"/models/{model_id}/versions/{made.number}")

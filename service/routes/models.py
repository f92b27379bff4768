"""Models and the history of their versions."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

from fastapi import Path, Query
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError

from broker import presence
from broker.presence import WorkerPresence
from ledger.db.engine import Transaction
from ledger.edits import facts, withdrawals
from ledger.errors import NotFound
from ledger.models import models
from ledger.records import WithdrawalRecord
from ledger.versions import versions
from service import views
from service.context import Services, ServicesDep, Tx
from service.guard import ReadKey
from service.problems import Problem
from service.routes import OBJECT_ID, ModelId, Paging, problems, router
from service.schemas.base import Paged
from service.schemas.changes import Changes, ChangesQuery
from service.schemas.models import Members, ModelView, VersionView, WithdrawalView

routes = router("models")

Ref = Annotated[
    str, Path(pattern=OBJECT_ID, description="Version number, alias, `base`, or the id of a withdrawal.")
]
PENDING: dict[int | str, dict[str, Any]] = {
    202: {"model": WithdrawalView, "description": "The withdrawal's version is still being computed."}
}


@routes.get("/models", responses=problems(422))
def list_models(asked: Paging, services: ServicesDep, tx: Tx, _: ReadKey) -> Paged[ModelView]:
    """Registered models with their aliases."""
    page = models.list_all(tx, limit=asked.limit, cursor=asked.cursor)
    items = [views.model(item, _alive(services, item.id)) for item in page.items]
    return Paged(items=items, next_cursor=page.next_cursor)


@routes.get("/models/{model_id}", responses=problems(404))
def get_model(model_id: ModelId, services: ServicesDep, tx: Tx, _: ReadKey) -> ModelView:
    """One model: aliases, live version, editor."""
    return views.model(models.get(tx, model_id), _alive(services, model_id))


def _alive(services: Services, model_id: str) -> list[WorkerPresence]:
    """The live workers of a model; none while Redis is away."""
    with suppress(RedisError):
        return presence.workers(services.redis, model_id)
    return []


@routes.get("/models/{model_id}/versions", responses=problems(404, 422))
def list_versions(model_id: ModelId, asked: Paging, tx: Tx, _: ReadKey) -> Paged[VersionView]:
    """A model's versions, newest first."""
    page = versions.list_all(tx, model_id, limit=asked.limit, cursor=asked.cursor)
    return Paged(items=[views.version(item) for item in page.items], next_cursor=page.next_cursor)


@routes.get(
    "/models/{model_id}/versions/{ref}",
    response_model=VersionView,
    responses={**problems(404, 409), **PENDING},
)
def get_version(model_id: ModelId, ref: Ref, tx: Tx, _: ReadKey) -> VersionView | JSONResponse:
    """One version: its facts' count, delta digest, report, parent and hash."""
    try:
        return views.version(versions.get(tx, model_id, ref))
    except NotFound as error:
        withdrawal = _find_withdrawal(tx, model_id, ref)
        if withdrawal is None:
            raise error
    return _of_withdrawal(tx, withdrawal)


@routes.get("/models/{model_id}/versions/{ref}/edit_sets", responses=problems(404, 422))
def list_members(model_id: ModelId, ref: Ref, asked: Paging, tx: Tx, _: ReadKey) -> Members:
    """The edit sets that a version holds, in the order in which they were accepted."""
    number, page = versions.list_members(tx, model_id, ref, asked.limit, asked.cursor)
    items = [views.member(item) for item in page.items]
    return Members(model=model_id, version=number, items=items, next_cursor=page.next_cursor)


@routes.get("/models/{model_id}/versions/{ref}/changes", responses=problems(404, 422))
def list_changes(
    model_id: ModelId, ref: Ref, asked: Annotated[ChangesQuery, Query()], tx: Tx, _: ReadKey
) -> Changes:
    """What a version changed: the facts that it holds and another does not, or the other way round."""
    version, other, page = facts.changes(tx, model_id, ref, asked.since, asked.limit, asked.cursor)
    items = [views.change(added, fact) for added, fact in page.items]
    return Changes(
        model=model_id,
        version=views.version(version),
        since=views.version(other),
        items=items,
        next_cursor=page.next_cursor,
    )


def _find_withdrawal(tx: Transaction, model_id: str, ident: str) -> WithdrawalRecord | None:
    try:
        found = withdrawals.get(tx, ident)
    except NotFound:
        return None
    return found if found.model_id == model_id else None


def _of_withdrawal(tx: Transaction, found: WithdrawalRecord) -> VersionView | JSONResponse:
    """The version that a withdrawal made, its state while there is none, or its problem."""
    if found.version is not None:
        return views.version(versions.get(tx, found.model_id, found.version))
    if found.status in ("failed", "cancelled"):
        why = (found.error or {}).get("detail", f"it was {found.status}.")
        detail = f"The withdrawal {found.id} made no version: {why} Post it again once that is cured."
        raise Problem("withdrawal-failed", detail, extra={"error": dict(found.error or {})})
    body = views.withdrawal(found).model_dump(mode="json")
    return JSONResponse(body, status_code=202, headers={"Retry-After": "1"})

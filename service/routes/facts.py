"""Facts across the edit sets of a model: those of a version, or of them those that a prompt touches."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool

from ledger.edits import facts
from service import views
from service.context import Services, ServicesDep
from service.generation import unless_disconnected
from service.guard import ReadKey
from service.routes import ModelId, problems, router
from service.schemas.touching import FactsQuery, HeldFacts, Touched
from service.touching import plan, touched

routes = router("facts")


@routes.get("/models/{model_id}/facts", responses=problems(404, 409, 422, 429))
async def list_facts(
    model_id: ModelId,
    wanted: Annotated[FactsQuery, Query()],
    request: Request,
    services: ServicesDep,
    _: ReadKey,
) -> Touched | HeldFacts:
    """The facts of a version, page by page; or those that a prompt touches, the nearest first.

    For those, a worker compares keys.
    """
    if wanted.touching is None:
        return await run_in_threadpool(_held, services, model_id, wanted)
    call = await run_in_threadpool(
        plan, services, model_id, wanted.touching, wanted.version, wanted.limit or 10
    )
    return await unless_disconnected(request, partial(touched, services, call))


def _held(services: Services, model_id: str, wanted: FactsQuery) -> HeldFacts:
    number, page = services.ledger.run(
        facts.held, model_id, wanted.version, wanted.limit or 100, wanted.cursor
    )
    items = [views.held_fact(fact) for fact in page.items]
    return HeldFacts(model=model_id, version=number, items=items, next_cursor=page.next_cursor)

"""Facts across edit sets: of all models, of a version, or of these those that a prompt touches."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool

from ledger.edits import facts
from ledger.edits.search import search
from service import views
from service.context import Services, ServicesDep, Tx
from service.generation import unless_disconnected
from service.guard import ReadKey
from service.routes import ModelId, problems, router
from service.schemas.base import Paged
from service.schemas.touching import AllFactsQuery, FactsQuery, FoundFact, HeldFacts, Touched
from service.touching import plan, touched

routes = router("facts")


@routes.get("/facts", responses=problems(422))
def search_facts(asked: Annotated[AllFactsQuery, Query()], tx: Tx, _: ReadKey) -> Paged[FoundFact]:
    """The facts of all models, those accepted last first."""
    page = search(
        tx,
        asked.limit,
        asked.cursor,
        model_id=asked.model,
        text=asked.q,
        live=asked.live,
        subject=asked.subject,
        source=asked.source,
        author=asked.author,
        ticket=asked.ticket,
    )
    return Paged(items=[views.found_fact(each) for each in page.items], next_cursor=page.next_cursor)


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

"""Facts across the edit sets of a model: those that a prompt touches."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool

from service.context import ServicesDep
from service.generation import unless_disconnected
from service.guard import ReadKey
from service.routes import ModelId, problems, router
from service.schemas.touching import Touched, TouchingQuery
from service.touching import plan, touched

routes = router("facts")


@routes.get("/models/{model_id}/facts", responses=problems(404, 409, 422, 429))
async def list_touched(
    model_id: ModelId,
    wanted: Annotated[TouchingQuery, Query()],
    request: Request,
    services: ServicesDep,
    _: ReadKey,
) -> Touched:
    """The facts of a version that a prompt touches, the nearest first; a worker compares their keys."""
    asked = (wanted.touching, wanted.version, wanted.limit)
    call = await run_in_threadpool(plan, services, model_id, *asked)
    return await unless_disconnected(request, partial(touched, services, call))

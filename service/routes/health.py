"""Liveness, readiness, metrics."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import Response
from prometheus_client import CONTENT_TYPE_LATEST

from service import probes
from service.context import ServicesDep
from service.guard import MetricsKey, ReadKey
from service.problems import FieldError, Problem
from service.routes import problems, router
from service.schemas.health import Health, Readiness

routes = router("health")


def release() -> str:
    """The installed release of this service."""
    try:
        return version("errata-llm")
    except PackageNotFoundError:
        return "0+source"


@routes.head("/healthz", include_in_schema=False)
@routes.get("/healthz")
async def healthz() -> Health:
    """Whether this process answers; says nothing of the servers that it needs."""
    return Health(version=release())


@routes.head("/readyz", include_in_schema=False)
@routes.get("/readyz", responses={503: problems()[503]})
def readyz(services: ServicesDep) -> Readiness:
    """Whether the database answers and its schema is not older than this release; 503 with reasons if not."""
    checks = probes.readiness(services)
    missing = [check for check in checks if not check.ok]
    if missing:
        detail = "; ".join(f"{check.name}: {check.reason}" for check in missing)
        errors = [FieldError(f"/{check.name}", check.reason or "", "dependency") for check in missing]
        shown = {"ready": False, "checks": [check.model_dump() for check in checks]}
        raise Problem("not-ready", detail, errors=errors, extra=shown)
    return Readiness(ready=True, checks=checks)


@routes.get("/status", responses=problems())
def status(services: ServicesDep, _: ReadKey) -> Readiness:
    """Whether all of the work can be done: database, schema, Redis, and a worker for each ready model."""
    checks = probes.status(services)
    return Readiness(ready=all(check.ok for check in checks), checks=checks)


TEXT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text format.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}


@routes.get("/metrics", response_class=Response, responses={**problems(), **TEXT})
def metrics(services: ServicesDep, _: MetricsKey) -> Response:
    """Requests, edit sets, queues and generation, for Prometheus."""
    probes.measure(services)
    return Response(services.metrics.render(), media_type=CONTENT_TYPE_LATEST)

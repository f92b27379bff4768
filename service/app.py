"""The application: its parts, its routes, its life."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool

from broker.connection import connect, connect_async
from broker.queue import Doorbell
from broker.settings import BrokerSettings
from ledger import Ledger
from ledger.settings import LedgerSettings
from service import failures
from service.access import AccessMiddleware
from service.changes import Changes
from service.console.app import create_console
from service.context import Services
from service.last_known import LastKnown
from service.openai import routes as openai
from service.routes import (
    admin_models,
    audit,
    editors,
    edits,
    facts,
    generate,
    health,
    keys,
    ledger,
    models,
    withdrawals,
)
from service.schemas.base import ProblemBody
from service.settings import ServiceSettings
from service.startup import Background

DESCRIPTION = (
    "Errata corrects facts inside language models: each correction is numbered and verified, can be looked "
    "up, and can be taken back exactly. Errors are problem details (RFC 9457); lists are paged by cursor."
)
NOUNS = (
    edits,
    withdrawals,
    models,
    facts,
    generate,
    admin_models,
    editors,
    ledger,
    audit,
    keys,
    health,
    openai,
)


def create_app(
    settings: ServiceSettings | None = None,
    ledger_settings: LedgerSettings | None = None,
    broker_settings: BrokerSettings | None = None,
) -> FastAPI:
    """Make the application; settings that are not given are read from the environment.

    Connections are made when it starts to serve, and it starts without its servers too.

    Raises:
        pydantic.ValidationError: a setting is missing or wrong.
    """
    settings = settings or ServiceSettings()
    broker_settings = broker_settings or BrokerSettings()
    ledger = Ledger.open(ledger_settings or LedgerSettings(), pool_size=settings.request_threads)
    redis = connect(broker_settings)
    services = Services(
        settings=settings,
        broker_settings=broker_settings,
        ledger=ledger,
        redis=redis,
        async_redis=connect_async(broker_settings),
        doorbell=Doorbell(redis),
        changes=Changes(ledger, settings.max_followers),
        generations=CapacityLimiter(settings.max_generations),
        last_known=LastKnown(settings.ledger_away_s),
    )
    app = FastAPIOffline(  # documentation pages that load nothing from elsewhere
        title="Errata",
        version=health.release(),
        description=DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.services = services
    app.add_middleware(AccessMiddleware, metrics=services.metrics)
    failures.install(app)
    for noun in NOUNS:
        app.include_router(noun.routes)
    app.mount("/console", create_console(services))
    app.add_api_route("/", _home, include_in_schema=False)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


async def _home() -> RedirectResponse:
    """Send a browser to the documentation."""
    return RedirectResponse("/docs")


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    anyio.to_thread.current_default_thread_limiter().total_tokens = services.settings.request_threads
    background = Background(services)
    await run_in_threadpool(background.start)
    try:
        yield
    finally:
        await services.changes.close()
        await run_in_threadpool(background.stop)
        services.redis.close()
        await services.async_redis.aclose()
        services.ledger.engine.dispose()


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with problem details in place of FastAPI's own validation errors."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        body = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= body.pop("$defs", {})
        schemas["ProblemBody"] = body
        for operations in document["paths"].values():
            for operation in operations.values():
                _use_problems(operation["responses"])
                if operation["tags"] == ["openai"]:
                    operation["responses"].pop("422", None)  # 400, and in OpenAI's shape
        app.openapi_schema = document
    return app.openapi_schema


def _use_problems(responses: dict[str, Any]) -> None:
    answer = responses.get("422")
    if answer is not None and "application/json" in answer.get("content", {}):
        content = answer["content"]
        content.pop("application/json")
        content.setdefault(
            "application/problem+json", {"schema": {"$ref": "#/components/schemas/ProblemBody"}}
        )

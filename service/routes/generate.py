"""Generation from any version of a model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import StreamingResponse
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from broker.errors import BrokerError
from broker.generation import GenerationCall
from service import sse
from service.context import Services, ServicesDep
from service.failures import QUEUE_DOWN, typed_problem
from service.generation import (
    Event,
    GenerateParams,
    build_calls,
    collect,
    collect_all,
    stream_events,
    unless_disconnected,
)
from service.guard import GenerateKey
from service.limits import refuse
from service.problems import FieldError, Problem, pointer
from service.routes import ModelId, problems, router
from service.schemas.generate import Comparison, GenerateBody, GenerateQuery, Generation

routes = router("generate")

STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The text; with `stream=true`, events `text` as it comes, then `done` or `error`.",
        "content": {"text/event-stream": {}},
    }
}
RESPONSES: dict[int | str, dict[str, Any]] = {**problems(404, 409, 422, 429), **STREAM}
POST_RESPONSES: dict[int | str, dict[str, Any]] = {**problems(400, 404, 409, 413, 415, 422, 429), **STREAM}


@routes.get("/models/{model_id}/generate", response_model=Generation, responses=RESPONSES)
async def generate(
    model_id: ModelId,
    wanted: Annotated[GenerateQuery, Query()],
    request: Request,
    services: ServicesDep,
    _: GenerateKey,
) -> Generation | StreamingResponse:
    """Continue a prompt with one version of a model."""
    asked = _params(wanted, ((wanted.version, FieldError("/version", "", "query")),), "query")
    (call,) = await run_in_threadpool(build_calls, services, model_id, asked)
    if wanted.stream:
        return await _stream(request, services, call)
    return await unless_disconnected(request, partial(collect, services, call))


@routes.post("/models/{model_id}/generate", response_model=Generation | Comparison, responses=POST_RESPONSES)
async def post_generate(
    model_id: ModelId, body: GenerateBody, request: Request, services: ServicesDep, _: GenerateKey
) -> Generation | Comparison | StreamingResponse:
    """The same with a JSON body, and a comparison of several versions."""
    if body.versions is None:
        refs = ((body.version if body.version is not None else "live", FieldError("/version", "")),)
        (call,) = await run_in_threadpool(build_calls, services, model_id, _params(body, refs, "body"))
        if body.stream:
            return await _stream(request, services, call)
        return await unless_disconnected(request, partial(collect, services, call))
    limit = services.settings.max_compared_versions
    if len(body.versions) > limit:
        detail = f"{len(body.versions)} versions are more than {limit}. Compare fewer."
        refuse([FieldError("/versions", detail)])
    named = tuple((ref, FieldError(pointer("versions", at), "")) for at, ref in enumerate(body.versions))
    calls = await run_in_threadpool(build_calls, services, model_id, _params(body, named, "body"))
    items = await unless_disconnected(request, partial(collect_all, services, calls))
    return Comparison(items=items)


def _params(
    asked: GenerateQuery | GenerateBody, refs: tuple[tuple[int | str, FieldError], ...], where: str
) -> GenerateParams:
    messages = asked.messages if isinstance(asked, GenerateBody) else None
    return GenerateParams(
        prompt=asked.prompt or "",
        messages=tuple(turn.model_dump() for turn in messages or ()),
        max_new_tokens=asked.max_new_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        stop=tuple(asked.stop),
        refs=refs,
        where=where,
        stream=asked.stream,
    )


async def _stream(request: Request, services: Services, call: GenerationCall) -> StreamingResponse:
    """Wait for the first event, so that what fails before it has a status of its own; then stream."""
    stream = stream_events(services, call)
    first = await unless_disconnected(request, partial(anext, stream))
    return sse.answer(_as_events(call, first, stream))


async def _as_events(
    call: GenerationCall, first: Event, rest: AsyncGenerator[Event, None]
) -> AsyncIterator[bytes]:
    try:
        yield _shown(call, first)
        async for event in rest:
            yield _shown(call, event)
    except Problem as problem:
        yield sse.event("error", problem.to_json())
    except BrokerError as error:
        yield sse.event("error", typed_problem(error).to_json())
    except RedisError:
        yield sse.event("error", Problem("queue-unavailable", QUEUE_DOWN).to_json())
    finally:
        await rest.aclose()


def _shown(call: GenerationCall, event: Event) -> bytes:
    if event.get("finish_reason") is None:
        return sse.event("text", {"text": event.get("text", "")})
    return sse.event("done", {"model": call.model_id, "version": call.version, "text": "", **event})

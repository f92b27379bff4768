"""The playground: one prompt to several versions side by side, streamed, and the facts behind an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import Request, Response
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData

from broker.errors import BrokerError
from broker.generation import GenerationCall
from ledger.models import models
from service import sse
from service.console import answers
from service.console.forms import choice, lines, text
from service.console.rendering import marked, page, router
from service.console.session import Form, ReadSession
from service.context import Services, ServicesDep, Tx
from service.failures import QUEUE_DOWN, typed_problem
from service.generation import collect_all, stream_events, unless_disconnected
from service.limits import refuse
from service.paging import every
from service.problems import FieldError, Problem
from service.touching import plan, touched

routes = router()
TOUCHED = 5
DEFAULT_TOKENS = 32


@routes.get("/playground")
def ask_prompt(request: Request, tx: Tx, _: ReadSession, model: str = "", prompt: str = "") -> Response:
    """The form that asks for a prompt and versions."""
    ready = [each for each in every(tx, models.list_all) if each.status == "ready"]
    chosen = next((each for each in ready if each.id == model), ready[0] if ready else None)
    return page(
        request,
        "playground.html",
        models=ready,
        chosen=chosen,
        prompt=prompt,
        tokens=DEFAULT_TOKENS,
        panes=[],
    )


@routes.post("/playground")
async def answer(request: Request, services: ServicesDep, form: Form, _: ReadSession) -> Response:
    """The answers as a whole, for browsers without scripts."""
    model_id, calls = await run_in_threadpool(_calls, services, form, stream=False)
    found = await unless_disconnected(request, partial(collect_all, services, calls))
    texts = marked([each.text for each in found])
    panes = [_pane(form, call, each) for call, each in zip(calls, texts, strict=True)]
    return page(request, "panes.html", model=model_id, panes=panes)


@routes.post("/playground/stream")
async def stream(request: Request, services: ServicesDep, form: Form, _: ReadSession) -> Response:
    """The answers as they come: events `text`, of each version; at the end, `done` with differences marked."""
    model_id, calls = await run_in_threadpool(_calls, services, form, stream=True)
    return sse.answer(_stream(request, services, form, model_id, calls))


def _calls(services: Services, form: FormData, *, stream: bool) -> tuple[str, list[GenerationCall]]:
    """The calls that a form asks for, one for each version.

    Raises:
        Problem: there are no versions or too many, or as `answers.calls`.
    """
    refs = list(
        dict.fromkeys(ref for line in lines(form, "versions") for ref in line.replace(",", " ").split())
    )
    most = services.settings.max_compared_versions
    if not 1 <= len(refs) <= most:
        refuse([FieldError("/versions", f"Name 1 to {most} versions, by number, alias or `base`.")])
    prompt = form.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        refuse([FieldError("/prompt", "Give a prompt.")])
    in_chat = text(form, "chat") is not None
    asked = answers.Asked("Prompt", str(prompt), answers.turn(str(prompt)) if in_chat else ())
    tokens = choice(form, "max_new_tokens")
    most_tokens = tokens if isinstance(tokens, int) and tokens > 0 else DEFAULT_TOKENS
    model_id = text(form, "model") or ""
    return model_id, answers.calls(services, model_id, asked, refs, most_tokens, stream=stream)


def _pane(form: FormData, call: GenerationCall, shown: Any) -> dict[str, Any]:
    return {"version": call.version, "text": shown, "prompt": form.get("prompt")}


async def _stream(
    request: Request, services: Services, form: FormData, model_id: str, calls: Sequence[GenerationCall]
) -> AsyncIterator[bytes]:
    """What all versions answer, in the order in which it comes; then the panes with differences marked."""
    texts = [""] * len(calls)
    arrived: asyncio.Queue[tuple[int, str | Problem | None]] = asyncio.Queue()
    tasks = [
        asyncio.create_task(_read(services, call, partial(_put, arrived, at)))
        for at, call in enumerate(calls)
    ]
    try:
        yield sse.event("begin", {"versions": [call.version for call in calls]})
        running = len(calls)
        while running:
            at, piece = await arrived.get()
            if isinstance(piece, str):
                texts[at] += piece
                yield sse.event("text", {"pane": at, "text": piece})
                continue
            running -= 1
            if piece is not None:
                yield sse.event("error", {"pane": at, "detail": piece.detail})
        panes = [_pane(form, call, each) for call, each in zip(calls, marked(texts), strict=True)]
        shown = page(request, "panes.html", model=model_id, panes=panes)
        yield sse.event("done", {"html": bytes(shown.body).decode()})
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _put(
    arrived: asyncio.Queue[tuple[int, str | Problem | None]], at: int, piece: str | Problem | None
) -> None:
    arrived.put_nowait((at, piece))


async def _read(services: Services, call: GenerationCall, put: Any) -> None:
    """Hand on what one version answers, then None, or the problem that ended it."""
    try:
        async with aclosing(stream_events(services, call)) as events:
            async for event in events:
                put(event.get("text") or "")
    except Problem as problem:
        put(problem)
    except BrokerError as error:
        put(typed_problem(error))
    except RedisError:
        put(Problem("queue-unavailable", QUEUE_DOWN))
    else:
        put(None)


@routes.get("/models/{model_id}/touching")
async def which_facts(
    model_id: str, request: Request, services: ServicesDep, _: ReadSession, prompt: str, version: str = "live"
) -> Response:
    """The facts of a version that a prompt touches, the nearest first."""
    call = await run_in_threadpool(plan, services, model_id, prompt, version, TOUCHED)
    found = await unless_disconnected(request, partial(touched, services, call))
    return page(request, "touching.html", found=found)

"""Asking workers for text: which versions, how much, and what happens when the client goes away."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Request
from starlette.requests import ClientDisconnect

from broker import generation as channel
from broker.errors import BrokerError
from broker.generation import GenerationCall
from ledger.errors import NotFound
from ledger.records import ModelRecord
from service.context import Services
from service.failures import typed_problem
from service.limits import check_generation
from service.problems import KINDS, TYPE_PREFIX, FieldError, Problem
from service.schemas.generate import Generation, Usage

T = TypeVar("T")
BASE = "base"
Event = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """What a client asked for; `refs` are the versions, each with the field that named it."""

    prompt: str
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    refs: tuple[tuple[int | str, FieldError], ...]
    where: str


def plan(services: Services, model_id: str, wanted: Wanted) -> list[GenerationCall]:
    """One call per version, each bound to a version number, so that a later promotion does not mix weights.

    Raises:
        Problem: over a limit, the prompt does not fit, the model is not ready, or there is no such version.
        NotFound: there is no such model.
    """
    check_generation(wanted.prompt, wanted.max_new_tokens, wanted.where, services.settings)
    numbers, room = aim(
        services, model_id, wanted.refs, wanted.prompt, FieldError("/prompt", "", wanted.where)
    )
    request = {
        "prompt": wanted.prompt,
        "max_new_tokens": min(wanted.max_new_tokens, room),
        "temperature": wanted.temperature,
        "top_p": wanted.top_p,
        "seed": wanted.seed,
        "stop": list(wanted.stop),
    }
    return [make_call(services, model_id, number, request) for number in numbers]


def aim(
    services: Services,
    model_id: str,
    refs: Sequence[tuple[int | str, FieldError]],
    prompt: str,
    field: FieldError,
) -> tuple[list[int], int]:
    """The numbers of the versions that are named, and how many tokens fit behind the prompt.

    Raises:
        Problem: the model is not ready, the prompt does not fit, or there is no such version.
        NotFound: there is no such model.
    """
    model = services.ledger.get_model(model_id)
    check_ready(model)
    numbers = [_resolve(services, model_id, ref, named) for ref, named in refs]
    return numbers, _room(services, model, prompt, field)


def make_call(
    services: Services, model_id: str, number: int, request: Event, kind: str = channel.GENERATE
) -> GenerationCall:
    """A call of one version, to be answered in time."""
    deadline = time.time() + services.broker_settings.generation_timeout_s
    return GenerationCall(f"gen_{secrets.token_hex(12)}", model_id, number, request, deadline, kind)


def check_ready(model: ModelRecord) -> None:
    """Refuse a model that has no version yet.

    Raises:
        Problem: model-not-ready.
    """
    if model.status == "ready":
        return
    if model.status == "failed":
        why = (model.error or {}).get("detail", "its worker could not load it")
        detail = f"The model {model.id!r} failed: {why} Correct that and register it again."
    else:
        detail = (
            f"The model {model.id!r} is being prepared. Ask again when GET /models/{model.id} says ready."
        )
    raise Problem("model-not-ready", detail)


def _resolve(services: Services, model_id: str, ref: int | str, field: FieldError) -> int:
    """The number of a version that is named by number, alias or `base`."""
    if ref == BASE:
        return 0
    if isinstance(ref, str) and ref.isascii() and ref.isdigit():
        ref = int(ref)
    try:
        return services.ledger.number_of(model_id, ref)
    except NotFound as error:
        shown = FieldError(field.pointer, error.message, field.where)
        raise typed_problem(error, [shown]) from error


def _room(services: Services, model: ModelRecord, prompt: str, field: FieldError) -> int:
    """How many tokens fit behind the prompt."""
    tokenizer = services.tokenizers.get(model)
    count = tokenizer.count(prompt)
    room = tokenizer.room(count)
    if count > 0 and room > 0:
        return room
    detail = (
        f"The prompt has {count} tokens, which leaves no room for an answer in the context of {model.id!r}, "
        f"{model.context_length} tokens. Give at least one token, or shorten the prompt."
    )
    raise Problem("prompt-too-long", detail, errors=[FieldError(field.pointer, detail, field.where)])


@contextmanager
def _admitted(services: Services, calls: Sequence[GenerationCall]) -> Iterator[None]:
    """Hold a place for each of some calls as long as they are waited for.

    Raises:
        Problem: too many generations; then none of them holds one.
    """
    places = services.generations
    if places.available_tokens < len(calls):
        detail = (
            f"{int(places.borrowed_tokens)} generations are being waited for, of {int(places.total_tokens)} "
            f"at most, and this asks for {len(calls)}. Try again shortly, or ask the operator to raise "
            "ERRATA_MAX_GENERATIONS."
        )
        raise Problem("too-many-generations", detail)
    for call in calls:
        places.acquire_on_behalf_of_nowait(call.id)
    try:
        yield
    finally:
        for call in calls:
            places.release_on_behalf_of(call.id)


async def events(services: Services, call: GenerationCall) -> AsyncGenerator[Event, None]:
    """Send a call and yield its events up to the last; leaving early cancels it at the worker.

    Raises:
        Problem: too many generations, or the worker's own.
        BrokerError: no worker, a full queue, a lost worker, a timeout.
        RedisError: Redis is away.
    """
    with _admitted(services, [call]):
        async with aclosing(_events(services, call)) as stream:
            async for event in stream:
                yield event


async def _events(services: Services, call: GenerationCall) -> AsyncGenerator[Event, None]:
    """The events of a call that holds its place."""
    redis, timeout_s = services.redis, services.broker_settings.generation_timeout_s
    thread = CapacityLimiter(1)  # apart from the threads that answer requests
    in_thread = partial(run_sync, abandon_on_cancel=True, limiter=thread)
    started, outcome = time.perf_counter(), "cancelled"
    try:
        limit = services.broker_settings.generation_queue_limit
        await run_sync(channel.send, redis, call, limit, limiter=thread)
        waiting = channel.replies(redis, call.id, timeout_s, call.model_id)
        while outcome == "cancelled":
            event: Event = await in_thread(next, waiting)
            if "error" in event:
                problem = worker_problem(event["error"])
                outcome = problem.code
                raise problem
            if channel.is_last(event):
                outcome = str(event["finish_reason"])
            yield event
    except BrokerError as error:
        outcome = error.code
        raise
    finally:
        services.metrics.generation(call.model_id, outcome, time.perf_counter() - started)
        if outcome in ("cancelled", "generation-timeout"):
            with anyio.CancelScope(shield=True):
                await run_sync(_cancel, services, call)


def _cancel(services: Services, call: GenerationCall) -> None:
    """Tell the worker that nobody waits, and the thread that still waits here too."""
    channel.cancel(services.redis, call.id)
    channel.reply(services.redis, call.id, {"error": {"type": "cancelled"}})


def worker_problem(error: dict[str, Any]) -> Problem:
    """The problem that a worker answered with."""
    code = str(error.get("type", "")).removeprefix(TYPE_PREFIX)
    detail = str(error.get("detail") or "The worker could not generate. Try again; tell the operator.")
    return Problem(code if code in KINDS else "generation-failed", detail)


async def complete(services: Services, call: GenerationCall) -> Generation:
    """The whole answer to one call.

    Raises:
        Problem: as `events`.
        BrokerError: as `events`.
    """
    with _admitted(services, [call]):
        return await _complete(services, call)


async def _complete(services: Services, call: GenerationCall) -> Generation:
    text: list[str] = []
    last: Event = {}
    async with aclosing(_events(services, call)) as stream:
        async for event in stream:
            text.append(event.get("text") or "")
            last = event
    return Generation(
        model=call.model_id,
        version=call.version,
        text="".join(text),
        labels=last.get("labels"),
        finish_reason=last["finish_reason"],
        usage=Usage(**(last.get("usage") or {})),
        weights_digest=last.get("weights_digest"),
    )


async def complete_all(services: Services, calls: Sequence[GenerationCall]) -> list[Generation]:
    """The answers to several calls, asked at once; one that fails ends the others.

    Raises:
        Problem: as `events`; too many generations if there is not room for all.
        BrokerError: as `events`.
    """
    with _admitted(services, calls):
        tasks = [asyncio.ensure_future(_complete(services, call)) for call in calls]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def unless_disconnected(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """Do the work, and stop it when the client goes away.

    Raises:
        ClientDisconnect: the client has gone.
    """
    working = asyncio.ensure_future(work())
    watching = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""Asking workers for text: which versions, how much, and what happens when the client goes away."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
from fastapi import Request
from starlette.requests import ClientDisconnect

from broker import generation as channel
from broker.errors import BrokerError
from broker.generation import AttributionRequest, GenerationCall, TextRequest
from ledger.errors import NotFound, OtherBase
from ledger.models import models
from ledger.records import ModelRecord
from ledger.versions import versions
from problems import KINDS, TYPE_PREFIX
from service.context import Services
from service.failures import typed_problem
from service.limits import check_generation
from service.problems import FieldError, Problem
from service.schemas.generate import Generation, Usage

T = TypeVar("T")
Event = dict[str, Any]
Prompt = str | tuple[int, ...] | tuple[dict[str, str], ...]


@dataclass(frozen=True)
class GenerateParams:
    """What a client asked for; `refs` are the versions, each with the field that named it.

    `prompt` is text or the ids of its tokens, `where` the part of the request that it stands in; `messages`
    are the turns of a conversation, in place of the prompt.
    """

    prompt: str | tuple[int, ...]
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    refs: tuple[tuple[int | str, FieldError], ...]
    where: str
    stream: bool = False
    logprobs: int | None = None
    echo: bool = False
    messages: tuple[dict[str, str], ...] = ()


def build_calls(services: Services, model_id: str, asked: GenerateParams) -> list[GenerationCall]:
    """One call per version, each bound to a version number, so that a later promotion does not mix weights.

    Raises:
        Problem: over a limit, the prompt does not fit, the model is not ready, or there is no such version.
        NotFound: there is no such model.
    """
    field = FieldError("/messages" if asked.messages else "/prompt", "", asked.where)
    text = "".join(turn["content"] for turn in asked.messages)
    if isinstance(asked.prompt, str):
        text = text or asked.prompt
    check_generation(text, asked.max_new_tokens, field, services.settings)
    prompt = asked.messages or asked.prompt
    numbers, ids, room = resolve(services, model_id, asked.refs, prompt, field)
    request = TextRequest(
        prompt=ids,
        max_new_tokens=min(asked.max_new_tokens, room),
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        stop=asked.stop,
        logprobs=asked.logprobs,
        echo=asked.echo,
    )
    return [make_call(services, model_id, number, request, stream=asked.stream) for number in numbers]


def resolve(
    services: Services,
    model_id: str,
    refs: Sequence[tuple[int | str, FieldError]],
    prompt: Prompt,
    field: FieldError,
) -> tuple[list[int], tuple[int, ...], int]:
    """The numbers of the versions that are named, the prompt's token ids, and how many tokens fit behind it.

    Raises:
        Problem: the model is not ready, the prompt does not fit, or there is no such version.
        NotFound: there is no such model.
    """
    model = known_model(services, model_id)
    check_ready(model)
    numbers = [_resolve(services, model_id, ref, named) for ref, named in refs]
    return numbers, *_read(services, model, prompt, field)


def known_model(services: Services, model_id: str) -> ModelRecord:
    """A model that is to be asked, as the ledger says or said a short while ago.

    Raises:
        NotFound: there is no such model.
    """
    return services.last_known.ask(("model", model_id), lambda: services.ledger.run(models.get, model_id))


def make_call(
    services: Services,
    model_id: str,
    number: int,
    request: TextRequest | AttributionRequest,
    *,
    stream: bool = False,
) -> GenerationCall:
    """A call of one version, to be answered in time."""
    return GenerationCall(
        id=f"gen_{secrets.token_hex(12)}",
        model_id=model_id,
        version=number,
        request=request,
        deadline=time.time() + services.broker_settings.generation_timeout_s,
        stream=stream,
    )


def check_ready(model: ModelRecord) -> None:
    """Refuse a model that has no version yet.

    Raises:
        Problem: model-not-ready.
    """
    if model.status == "ready":
        return
    if model.status == "archived":
        detail = f"The model {model.id!r} is archived. Register it again, or ask another."
    elif model.status == "failed":
        why = (model.error or {}).get("detail", "its worker could not load it")
        detail = f"The model {model.id!r} failed: {why} Correct that and register it again."
    else:
        detail = (
            f"The model {model.id!r} is being prepared. Ask again when GET /models/{model.id} says ready."
        )
    raise Problem("model-not-ready", detail)


def _resolve(services: Services, model_id: str, ref: int | str, field: FieldError) -> int:
    """The number of a version that is named by number, alias or `base`."""
    if isinstance(ref, str) and ref.isascii() and ref.isdigit():
        ref = int(ref)
    try:
        return services.last_known.ask(
            ("version", model_id, ref), lambda: services.ledger.run(versions.served_number, model_id, ref)
        )
    except (NotFound, OtherBase) as error:
        shown = FieldError(field.pointer, error.message, field.where)
        raise typed_problem(error, [shown]) from error


def _read(
    services: Services, model: ModelRecord, prompt: Prompt, field: FieldError
) -> tuple[tuple[int, ...], int]:
    """The token ids of a prompt, and how many tokens fit behind it."""
    tokenizer = services.tokenizers.get(model)
    ids = tokenizer.ids(prompt)
    unknown = tokenizer.unknown(ids)
    if unknown is not None:
        raise Problem("token-not-embedded", unknown, errors=[FieldError(field.pointer, unknown, field.where)])
    room = tokenizer.room(len(ids))
    if ids and room > 0:
        return ids, room
    detail = (
        f"The prompt has {len(ids)} tokens, which leaves no room for an answer in the context of "
        f"{model.id!r}, {model.context_length} tokens. Give at least one token, or shorten the prompt."
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


async def stream_events(services: Services, call: GenerationCall) -> AsyncGenerator[Event, None]:
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
    redis, settings = services.async_redis, services.broker_settings
    started, outcome = time.perf_counter(), "cancelled"
    try:
        await channel.send(redis, call, settings.generation_queue_limit)
        async with aclosing(channel.replies(redis, call, settings.generation_timeout_s)) as replies:
            async for event in replies:
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
                await channel.cancel(redis, call)


def worker_problem(error: dict[str, Any]) -> Problem:
    """The problem that a worker answered with."""
    code = str(error.get("type", "")).removeprefix(TYPE_PREFIX)
    detail = str(error.get("detail") or "The worker could not generate. Try again; tell the operator.")
    return Problem(code if code in KINDS else "generation-failed", detail)


async def collect(services: Services, call: GenerationCall) -> Generation:
    """The whole answer to one call.

    Raises:
        Problem: as `stream_events`.
        BrokerError: as `stream_events`.
    """
    with _admitted(services, [call]):
        return await _collect(services, call)


async def _collect(services: Services, call: GenerationCall) -> Generation:
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


async def collect_all(services: Services, calls: Sequence[GenerationCall]) -> list[Generation]:
    """The answers to several calls, asked at once; one that fails ends the others.

    Raises:
        Problem: as `stream_events`; too many generations if there is not room for all.
        BrokerError: as `stream_events`.
    """
    with _admitted(services, calls):
        tasks = [asyncio.ensure_future(_collect(services, call)) for call in calls]
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

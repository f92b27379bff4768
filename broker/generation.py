"""The generation channel: calls wait in a bounded Redis list per model and kind, each answer in its own list.

Nothing here is durable. A call is dropped once its deadline has passed, and one whose worker died is reported
as lost, so that the client asks again. Deadlines are Unix times: hosts are assumed to agree on the clock to
within seconds.

An answer that is not streamed is one message, and takes six round trips: the API looks for workers, queues
the call and waits for the answer; the worker takes the call, notes that it has it, and answers. The API's
side is asynchronous, the worker's is not.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from broker import presence
from broker.errors import GenerationTimeout, MalformedAnswer, ModelNotServed, NoWorker, QueueFull, WorkerLost
from broker.settings import BrokerSettings

logger = logging.getLogger(__name__)

REPLY_TTL_S = 60
NOTE_TTL_S = 600
SILENCE_S = 3.0
"""After so long without an event, the worker is looked for."""
Kind = Literal["text", "attribution"]
_SEND = """
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[2])
return 1
"""
_CANCEL = """
redis.call('SET', KEYS[1], '1', 'EX', ARGV[1])
redis.call('DEL', KEYS[2])
local worker = redis.call('GET', KEYS[3])
if not worker then return end
redis.call('RPUSH', ARGV[2] .. worker, ARGV[3])
redis.call('EXPIRE', ARGV[2] .. worker, ARGV[1])
"""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TextRequest(_Message):
    """What text to generate (`generation.generator.GenerationRequest`); a classifier needs the prompt.

    Attributes:
        prompt: text, or the ids of its tokens.
    """

    kind: Literal["text"] = "text"
    prompt: str | tuple[int, ...]
    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    echo: bool = False


class AttributionRequest(_Message):
    """Which facts of a version are nearest to a prompt, at most `limit` of them."""

    kind: Literal["attribution"] = "attribution"
    prompt: str
    limit: int = Field(ge=1)


class GenerationCall(_Message):
    """One request to the workers of a model.

    Attributes:
        id: unique; names the list of its answers.
        model_id: the model asked.
        version: version number, resolved from any alias before sending, so that the answer is of one version.
        request: what is asked.
        deadline: Unix time after which nobody waits for the answer.
        stream: whether text is sent as it comes; otherwise the answer is one message.
    """

    id: str
    model_id: str
    version: int = Field(ge=0)
    request: Annotated[TextRequest | AttributionRequest, Field(discriminator="kind")]
    deadline: float
    stream: bool = False


class _Event(BaseModel):
    """A part of an answer; `error` or a `finish_reason` ends it."""

    text: str = ""
    scores: list[tuple[int, float | None, list[tuple[int, float]]]] = []
    finish_reason: Literal["stop", "length"] | None = None
    usage: dict[str, int] = {}
    labels: dict[str, float] | None = None
    weights_digest: str | None = None
    facts: list[tuple[str, int, float]] = []
    error: dict[str, Any] | None = None


@dataclass(frozen=True)
class Cancellation:
    """Nobody waits any more for the answer to a call that this worker has taken."""

    call_id: str


def is_last(event: Mapping[str, Any]) -> bool:
    """Return whether an event ends an answer."""
    return event.get("finish_reason") is not None or "error" in event


async def send(redis: AsyncRedis, call: GenerationCall, limit: int | None = None) -> None:
    """Queue a call.

    Raises:
        NoWorker: no worker that answers for the model is alive.
        ModelNotServed: those that are alive cannot serve it.
        QueueFull: `limit` calls (default: the setting) wait already.
        redis.exceptions.RedisError: the server could not be reached.
    """
    allowed = BrokerSettings().generation_queue_limit if limit is None else limit
    alive = [each for each in await presence.find_workers(redis, call.model_id) if each.generates]
    if not alive:
        raise NoWorker(call.model_id)
    if all(each.failure for each in alive):
        raise ModelNotServed(call.model_id, str(alive[0].failure))
    key = _calls_key(call.model_id, call.request.kind)
    if not await redis.eval(_SEND, 1, key, str(allowed), call.model_dump_json()):
        raise QueueFull(call.model_id, allowed)


async def replies(
    redis: AsyncRedis, call: GenerationCall, timeout_s: float
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield a call's events as they come, up to and with the last one.

    While nothing comes, the worker that took the call is looked for, so that its death is noticed in seconds.

    Raises:
        WorkerLost: the worker that had taken the call is gone.
        NoWorker: the call waits, and no worker is left to take it.
        MalformedAnswer: what came is no event.
        GenerationTimeout: the answer did not end within `timeout_s` seconds.
    """
    until = time.monotonic() + timeout_s
    while (left := until - time.monotonic()) > 0:
        item = await redis.blpop([_reply_key(call.id)], min(left, SILENCE_S))
        if item is None:
            await _check_alive(redis, call)
            continue
        event = _read_event(item[1], call.model_id)
        yield event
        if is_last(event):
            return
    raise GenerationTimeout(call.model_id, timeout_s)


def _read_event(message: bytes | str, model_id: str) -> dict[str, Any]:
    try:
        return _Event.model_validate_json(message).model_dump(exclude_unset=True, exclude_none=True)
    except ValidationError as error:
        raise MalformedAnswer(model_id) from error


async def _check_alive(redis: AsyncRedis, call: GenerationCall) -> None:
    """Raise if nobody is left to answer, and no answer has come meanwhile."""
    alive = [each for each in await presence.find_workers(redis, call.model_id) if each.generates]
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.get(_taken_key(call.id))
        pipeline.exists(_reply_key(call.id))
        taken_by, answered = await pipeline.execute()
    if answered:
        return
    if taken_by is not None and taken_by.decode() not in {each.worker_id for each in alive}:
        raise WorkerLost(call.model_id)
    if taken_by is None and not alive:
        raise NoWorker(call.model_id)


async def cancel(redis: AsyncRedis, call: GenerationCall) -> None:
    """Say that nobody waits for a call any more: whoever has taken it stops at the next token."""
    keys = (_cancel_key(call.id), _reply_key(call.id), _taken_key(call.id))
    await redis.eval(_CANCEL, 3, *keys, str(NOTE_TTL_S), _cancelled_key(""), call.id)


def receive(
    redis: Redis, model_id: str, worker_id: str, timeout_s: float, kind: Kind = "text", *, busy: bool = False
) -> GenerationCall | Cancellation | None:
    """Take the next call that somebody still waits for, or learn that one was cancelled; None in due time.

    Calls past their deadline and cancelled calls are dropped, malformed ones are refused.

    Args:
        redis: the client.
        model_id: whose calls.
        worker_id: the taker, which whoever waits for the answer watches.
        timeout_s: seconds to wait.
        kind: of the calls; only who receives those for text learns of cancellations.
        busy: take no call, learn of cancellations only.
    """
    calls, cancelled = _calls_key(model_id, kind), _cancelled_key(worker_id)
    keys = [*([cancelled] if kind == "text" else []), *([] if busy else [calls])]
    until = time.monotonic() + timeout_s
    while (left := until - time.monotonic()) > 0:
        item: Any = redis.blpop(keys, left)
        if item is None:
            return None
        if item[0].decode() == cancelled:
            return Cancellation(item[1].decode(errors="replace"))
        call = _read(redis, item[1])
        if call is None:
            continue
        if call.deadline > time.time() and not _note_taken(redis, call.id, worker_id):
            return call
        logger.info("Dropped generation call %s: nobody waits for it any more.", call.id)
    return None


def _note_taken(redis: Redis, call_id: str, worker_id: str) -> bool:
    """Note who has a call; returns whether it was cancelled before, since later the worker is told."""
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.set(_taken_key(call_id), worker_id, ex=NOTE_TTL_S)
        pipeline.exists(_cancel_key(call_id))
        return bool(pipeline.execute()[1])


def _read(redis: Redis, message: bytes) -> GenerationCall | None:
    """The call that a message holds; None if it is malformed, which its sender is told if it has an id."""
    try:
        return GenerationCall.model_validate_json(message)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        detail = f"{'/'.join(map(str, first['loc']))}: {first['msg']}"
    logger.warning("Refused a malformed generation call: %s.", detail)
    try:
        call_id = json.loads(message)["id"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if isinstance(call_id, str):
        detail = f"The worker cannot read this request ({detail}). Give API and worker the same release."
        error_event = {"error": {"type": "urn:errata:problem:generation-failed", "detail": detail}}
        reply(redis, [(call_id, error_event)])
    return None


def reply(redis: Redis, events: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Send events of answers, each with the id of its call, in one round trip."""
    with redis.pipeline(transaction=False) as pipeline:
        for call_id, event in events:
            pipeline.rpush(_reply_key(call_id), json.dumps(event, ensure_ascii=False))
            pipeline.expire(_reply_key(call_id), REPLY_TTL_S)
        pipeline.execute()


def is_cancelled(redis: Redis, call_id: str) -> bool:
    """Return whether a call was cancelled."""
    return bool(redis.exists(_cancel_key(call_id)))


def waiting(redis: Redis, model_id: str) -> int:
    """Return how many calls for text wait for a model's workers."""
    return int(redis.llen(_calls_key(model_id, "text")))


def _calls_key(model_id: str, kind: Kind) -> str:
    return f"errata:generation:{kind}:{quote(model_id, safe='')}"


def _reply_key(call_id: str) -> str:
    return f"errata:reply:{call_id}"


def _taken_key(call_id: str) -> str:
    return f"errata:taken:{call_id}"


def _cancel_key(call_id: str) -> str:
    return f"errata:cancel:{call_id}"


def _cancelled_key(worker_id: str) -> str:
    return f"errata:cancelled:{worker_id}"

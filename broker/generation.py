"""The generation channel: calls wait in a bounded Redis list per model, and each answer in a list of its own.

Nothing here is durable. A call is dropped once its deadline has passed, and one whose worker died is reported
as lost, so that the client asks again. Deadlines are Unix times: hosts are assumed to agree on the clock to
within seconds.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from redis import Redis

from broker import presence
from broker.errors import GenerationTimeout, NoWorker, QueueFull, WorkerLost
from broker.settings import BrokerSettings

logger = logging.getLogger(__name__)

REPLY_TTL_S = 60
PATIENCE_S = 1.0
GENERATE = "generate"
TOUCHING = "touching"
_SEND = """
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[2])
return 1
"""


@dataclass(frozen=True)
class GenerationCall:
    """One request for generated text, or for the facts that a prompt touches.

    Attributes:
        id: unique; names the list of its answers.
        model_id: the model asked.
        version: version number, resolved from any alias before sending, so that the answer is of one version.
        request: prompt and the kind's own fields, JSON-able; the worker validates them.
        deadline: Unix time after which nobody waits for the answer.
        kind: `GENERATE` or `TOUCHING`.
    """

    id: str
    model_id: str
    version: int
    request: dict[str, Any]
    deadline: float
    kind: str = GENERATE

    def to_json(self) -> str:
        """Return the call as it travels."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> GenerationCall:
        """Read a call.

        Raises:
            ValueError: the text is not a call.
        """
        fields = json.loads(text)
        if not isinstance(fields, dict) or not isinstance(fields.get("request"), dict):
            raise ValueError("a generation call is an object with a 'request'")
        try:
            return cls(
                id=str(fields["id"]),
                model_id=str(fields["model_id"]),
                version=int(fields["version"]),
                request=fields["request"],
                deadline=float(fields["deadline"]),
                kind=str(fields.get("kind", GENERATE)),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"a generation call lacks {error}") from error


def is_last(event: Mapping[str, Any]) -> bool:
    """Return whether an event ends an answer."""
    return event.get("finish_reason") is not None or "error" in event


def send(redis: Redis, call: GenerationCall, limit: int | None = None) -> None:
    """Queue a call.

    Raises:
        NoWorker: no worker of the model is alive.
        QueueFull: `limit` calls (default: the setting) wait already.
        redis.exceptions.RedisError: the server could not be reached.
    """
    allowed = BrokerSettings().generation_queue_limit if limit is None else limit
    if not presence.workers(redis, call.model_id):
        raise NoWorker(call.model_id)
    added = redis.eval(_SEND, 1, _calls_key(call.model_id), str(allowed), call.to_json())
    if not added:
        raise QueueFull(call.model_id, allowed)


def replies(redis: Redis, call_id: str, timeout_s: float, model_id: str = "") -> Iterator[dict[str, Any]]:
    """Yield a call's events as they come, up to and with the last one.

    While nothing comes, the worker that took the call is looked for, so that its death is noticed in seconds.

    Args:
        redis: the client.
        call_id: the call's id.
        timeout_s: seconds to wait for the end of the answer.
        model_id: the model asked, for the presence check before the call is taken, and for the messages.

    Raises:
        WorkerLost: the worker that had taken the call is gone.
        NoWorker: the call waits and no worker is left to take it (only where `model_id` is given).
        GenerationTimeout: the answer did not end in time.
    """
    until = time.monotonic() + timeout_s
    taken_by: tuple[str, str] | None = None
    while (left := until - time.monotonic()) > 0:
        item = redis.blpop([_reply_key(call_id)], min(left, PATIENCE_S))
        if item is None:
            _check_alive(redis, call_id, model_id, taken_by)
            continue
        event: dict[str, Any] = json.loads(item[1])
        if "taken_by" in event:
            taken_by = (str(event["model_id"]), str(event["taken_by"]))
            continue
        yield event
        if is_last(event):
            return
    raise GenerationTimeout(taken_by[0] if taken_by else model_id, timeout_s)


def _check_alive(redis: Redis, call_id: str, model_id: str, taken_by: tuple[str, str] | None) -> None:
    """Raise if nobody is left to answer, and no answer has come meanwhile."""
    lost = taken_by is not None and not presence.is_present(redis, *taken_by)
    alone = taken_by is None and bool(model_id) and not presence.workers(redis, model_id)
    if not (lost or alone) or redis.exists(_reply_key(call_id)):
        return
    if taken_by is not None:
        raise WorkerLost(taken_by[0])
    raise NoWorker(model_id)


def receive(redis: Redis, model_id: str, timeout_s: float, worker_id: str = "") -> GenerationCall | None:
    """Take the next call that somebody still waits for; None when none came in time, at once for no time.

    Calls past their deadline, cancelled calls and malformed messages are dropped. The taker's id is told to
    the caller.
    """
    key, until = _calls_key(model_id), time.monotonic() + timeout_s
    while (item := _pop(redis, key, until)) is not None:
        try:
            call = GenerationCall.from_json(item)
        except ValueError as error:
            logger.warning("Dropped a generation call of model '%s': %s.", model_id, error)
            continue
        if call.deadline <= time.time() or is_cancelled(redis, call.id):
            logger.info("Dropped generation call %s: nobody waits for it any more.", call.id)
            continue
        if worker_id:
            reply(redis, call.id, {"taken_by": worker_id, "model_id": model_id})
        return call
    return None


def _pop(redis: Redis, key: str, until: float) -> Any:
    """The first element of a list, waited for until a time of the monotonic clock; None if none came."""
    while (left := until - time.monotonic()) > 0:
        item = redis.blpop([key], min(left, PATIENCE_S))
        if item is not None:
            return item[1]
    return redis.lpop(key)


def reply(redis: Redis, call_id: str, event: Mapping[str, Any]) -> None:
    """Send one event of an answer."""
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.rpush(_reply_key(call_id), json.dumps(event, ensure_ascii=False))
        pipeline.expire(_reply_key(call_id), REPLY_TTL_S)
        pipeline.execute()


def cancel(redis: Redis, call_id: str, ttl_s: int = 600) -> None:
    """Say that nobody waits for a call any more: its worker stops at the next token."""
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.set(_cancel_key(call_id), "1", ex=ttl_s)
        pipeline.delete(_reply_key(call_id))
        pipeline.execute()


def is_cancelled(redis: Redis, call_id: str) -> bool:
    """Return whether a call was cancelled."""
    return bool(redis.exists(_cancel_key(call_id)))


def waiting(redis: Redis, model_id: str) -> int:
    """Return how many calls wait for a model's workers."""
    return int(redis.llen(_calls_key(model_id)))


def _calls_key(model_id: str) -> str:
    return f"errata:generation:{quote(model_id, safe='')}"


def _reply_key(call_id: str) -> str:
    return f"errata:reply:{call_id}"


def _cancel_key(call_id: str) -> str:
    return f"errata:cancel:{call_id}"

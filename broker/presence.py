"""Which workers are alive: each announces itself every few seconds under a key that expires."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from urllib.parse import quote

from redis import Redis

_LEAD = """
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


@dataclass(frozen=True)
class WorkerPresence:
    """One live worker as it last announced itself.

    Attributes:
        worker_id: unique per process start.
        model_id: the model that it serves.
        state: what it does: waiting, preparing, idle, editing, or failed with the reason after a colon.
        seen_at: Unix time of the announcement, by the worker's clock.
    """

    worker_id: str
    model_id: str
    state: str
    seen_at: float


def announce(redis: Redis, model_id: str, worker_id: str, state: str, ttl_s: float) -> None:
    """Say that a worker is alive for the next `ttl_s` seconds."""
    value = json.dumps({"state": state, "seen_at": time.time()})
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.set(_key(model_id, worker_id), value, px=max(1, int(ttl_s * 1000)))
        pipeline.sadd(_members_key(model_id), worker_id)
        pipeline.execute()


def withdraw(redis: Redis, model_id: str, worker_id: str) -> None:
    """Say that a worker has stopped."""
    redis.delete(_key(model_id, worker_id))
    redis.srem(_members_key(model_id), worker_id)


def is_present(redis: Redis, model_id: str, worker_id: str) -> bool:
    """Return whether a worker's announcement still stands."""
    return bool(redis.exists(_key(model_id, worker_id)))


def workers(redis: Redis, model_id: str) -> list[WorkerPresence]:
    """Return the live workers of a model, by id; forgets those whose announcement has expired."""
    members = sorted(_text(member) for member in redis.smembers(_members_key(model_id)))
    if not members:
        return []
    found: list[WorkerPresence] = []
    for member, value in zip(members, redis.mget([_key(model_id, m) for m in members]), strict=True):
        if value is None:
            redis.srem(_members_key(model_id), member)
            continue
        fields = json.loads(value)
        found.append(WorkerPresence(member, model_id, str(fields["state"]), float(fields["seen_at"])))
    return found


def lead(redis: Redis, model_id: str, worker_id: str, ttl_s: float) -> bool:
    """Take or keep the lead among a model's workers for `ttl_s` seconds; return whether it is this worker's.

    It spares several workers the same work at once. It is no lock: the work must bear being done twice.
    """
    ttl_ms = str(max(1, int(ttl_s * 1000)))
    return bool(redis.eval(_LEAD, 1, f"errata:lead:{quote(model_id, safe='')}", worker_id, ttl_ms))


def _members_key(model_id: str) -> str:
    return f"errata:workers:{quote(model_id, safe='')}"


def _key(model_id: str, worker_id: str) -> str:
    return f"errata:worker:{quote(model_id, safe='')}:{worker_id}"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value

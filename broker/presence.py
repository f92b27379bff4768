"""Which workers are alive: each announces itself every few seconds under a key that expires."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ValidationError
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

Role = Literal["edit", "generate", "both"]
FAILED = "failed: "
_FIND = """
local found = {}
for _, member in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local value = redis.call('GET', ARGV[1] .. member)
  if value then
    found[#found + 1] = member
    found[#found + 1] = value
  else
    redis.call('SREM', KEYS[1], member)
  end
end
return found
"""
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
        state: waiting, preparing, loading, idle or editing; or why it cannot serve, behind `FAILED`.
        seen_at: Unix time of the announcement, by the worker's clock.
        role: whether it edits, generates, or does both.
    """

    worker_id: str
    model_id: str
    state: str
    seen_at: float
    role: Role = "both"

    @property
    def generates(self) -> bool:
        """Whether it is there to answer calls."""
        return self.role != "edit"

    @property
    def failure(self) -> str | None:
        """Why it cannot serve its model; None if it can, or will soon."""
        return self.state.removeprefix(FAILED) if self.state.startswith(FAILED) else None


def announce(
    redis: Redis, model_id: str, worker_id: str, state: str, ttl_s: float, role: Role = "both"
) -> None:
    """Say that a worker is alive for the next `ttl_s` seconds."""
    value = json.dumps({"state": state, "seen_at": time.time(), "role": role})
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.set(_key(model_id, worker_id), value, px=max(1, int(ttl_s * 1000)))
        pipeline.sadd(_members_key(model_id), worker_id)
        pipeline.execute()


def withdraw(redis: Redis, model_id: str, worker_id: str) -> None:
    """Say that a worker has stopped."""
    redis.delete(_key(model_id, worker_id))
    redis.srem(_members_key(model_id), worker_id)


def workers(redis: Redis, model_id: str) -> list[WorkerPresence]:
    """Return the live workers of a model, by id; forgets those whose announcement has expired."""
    return _read(model_id, redis.eval(_FIND, 1, _members_key(model_id), _key(model_id, "")))


async def find_workers(redis: AsyncRedis, model_id: str) -> list[WorkerPresence]:
    """The same as `workers`, by an asynchronous client."""
    return _read(model_id, await redis.eval(_FIND, 1, _members_key(model_id), _key(model_id, "")))


class _Announcement(BaseModel):
    state: str
    seen_at: float
    role: Role = "both"


def _read(model_id: str, found: Sequence[Any]) -> list[WorkerPresence]:
    """The workers that have announced themselves; what is no announcement is passed over."""
    alive = []
    for member, value in sorted(zip(found[::2], found[1::2], strict=True)):
        with suppress(ValidationError, UnicodeDecodeError):
            said = _Announcement.model_validate_json(value)
            alive.append(WorkerPresence(member.decode(), model_id, said.state, said.seen_at, said.role))
    return alive


def lead(redis: Redis, model_id: str, worker_id: str, ttl_s: float) -> bool:
    """Take or keep the lead among a model's workers for `ttl_s` seconds; return whether it is this worker's.

    It spares several workers the same work at once. It is no lock: the work must bear being done twice.
    """
    ttl_ms = str(max(1, int(ttl_s * 1000)))
    return bool(redis.eval(_LEAD, 1, f"errata:lead:{quote(model_id, safe='')}", worker_id, ttl_ms))


def count_attempt(redis: Redis, model_id: str, ttl_s: int = 3600) -> int:
    """Return how often preparing a model was begun within the last `ttl_s` seconds, with this time."""
    with redis.pipeline() as pipeline:
        pipeline.incr(_attempts_key(model_id))
        pipeline.expire(_attempts_key(model_id), ttl_s)
        return int(pipeline.execute()[0])


def forget_attempts(redis: Redis, model_id: str) -> None:
    """Count anew: the model was prepared, or refused."""
    redis.delete(_attempts_key(model_id))


def _attempts_key(model_id: str) -> str:
    return f"errata:attempts:{quote(model_id, safe='')}"


def _members_key(model_id: str) -> str:
    return f"errata:workers:{quote(model_id, safe='')}"


def _key(model_id: str, worker_id: str) -> str:
    return f"errata:worker:{quote(model_id, safe='')}:{worker_id}"

from __future__ import annotations

import json
import time
import zlib

import pytest
from redis import Redis

from broker.queue import MOST_WAITING, Doorbell, edit_queue, ring

pytestmark = pytest.mark.stack


def waiting(redis: Redis, model_id: str = "m") -> int:
    return int(redis.llen(edit_queue(redis, model_id).key))


def test_a_message_names_the_model_and_nothing_else(redis: Redis) -> None:
    ring(redis, "m")
    (name,) = edit_queue(redis, "m").get_job_ids()
    raw = redis.hget(f"rq:job:{name}", "data")
    assert isinstance(raw, bytes)
    assert json.loads(zlib.decompress(raw)) == ["errata.doorbell", None, ["m"], {}]
    assert 0 < redis.ttl(f"rq:job:{name}") <= 3600


def test_no_more_messages_wait_than_are_of_use(redis: Redis) -> None:
    for _ in range(2 * MOST_WAITING):
        ring(redis, "m")
    assert waiting(redis) == MOST_WAITING


def test_models_have_queues_of_their_own(redis: Redis) -> None:
    ring(redis, "org/a,b")
    assert waiting(redis, "org/a") == 0
    assert "," not in edit_queue(redis, "org/a,b").name


def test_the_doorbell_rings_from_its_own_thread_and_outlives_redis(redis: Redis) -> None:
    nowhere = Redis.from_url("redis://127.0.0.1:1")
    deaf = Doorbell(nowhere)
    started = time.monotonic()
    deaf.ring("m")
    deaf.ring("m")
    assert time.monotonic() - started < 0.1
    deaf.stop()
    doorbell = Doorbell(redis)
    for model_id in ("m", "n"):
        doorbell.ring(model_id)
    doorbell.stop()
    assert (waiting(redis), waiting(redis, "n")) == (1, 1)

"""The listener: what wakes it, what a message can make it do, and what it does without Redis."""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer

from broker.queue import edit_queue, ring
from tests.harness import eventually
from worker.listener import POLL_S, Listener

pytestmark = pytest.mark.stack


@contextmanager
def listening(redis_url: str, work: Callable[[], None]) -> Iterator[None]:
    """A listener in a thread, made anew whenever RQ gives up, as the process does."""
    stopping = threading.Event()

    def listen() -> None:
        while not stopping.is_set():
            try:
                Listener(Redis.from_url(redis_url), "m", f"w{time.monotonic_ns()}", work, stopping).work(
                    logging_level="CRITICAL"
                )
            except (RedisError, StopRequested):
                stopping.wait(0.1)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(3 * POLL_S)
        assert not thread.is_alive()


def write_message(redis: Redis, name: str, data: bytes, **fields: str) -> None:
    origin = edit_queue(redis, "m").name
    redis.hset(f"rq:job:{name}", "data", zlib.compress(data))
    for key, value in {"origin": origin, "status": "queued", "timeout": "-1", **fields}.items():
        redis.hset(f"rq:job:{name}", key, value)
    redis.rpush(edit_queue(redis, "m").key, name)


def message(function: str, *args: Any, **kwargs: Any) -> bytes:
    return json.dumps([function, None, list(args), kwargs]).encode()


def test_a_message_asks_for_work_at_once(redis_url: str) -> None:
    redis, asked = Redis.from_url(redis_url), [0.0]
    with listening(redis_url, lambda: asked.append(time.monotonic())):
        eventually("the start", lambda: len(asked) > 1)
        time.sleep(0.3)
        rung, before = time.monotonic(), len(asked)
        ring(redis, "m")
        eventually("the work", lambda: len(asked) > before)
        assert asked[before] - rung < 0.5 < POLL_S
    assert redis.keys("rq:job:*") == []


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (message("os.system", "touch {file}"), {}),
        (message("os.getpid"), {"success_callback_name": "os.getpid", "failure_callback_name": "os.getpid"}),
        (b"\x80\x04not json", {}),
        (b"{}", {}),
        (message("errata.doorbell", "m"), {"status": "no such status"}),
        (message("errata.doorbell", "m"), {"result_ttl": "soon"}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_nothing_that_a_message_says_is_run(
    redis_url: str, tmp_path: Path, data: bytes, fields: dict[str, str]
) -> None:
    redis, asked = Redis.from_url(redis_url), [0]
    with listening(redis_url, lambda: asked.append(1)):
        write_message(redis, "bad", data.replace(b"{file}", str(tmp_path / "ran").encode()), **fields)
        redis.rpush(edit_queue(redis, "m").key, "../../etc passwd")
        eventually("the empty queue", lambda: redis.llen(edit_queue(redis, "m").key) == 0)
        before = len(asked)
        eventually("the work", lambda: len(asked) > before)
    assert not (tmp_path / "ran").exists()


def test_control_rq_alone_would_have_run_it(redis_url: str) -> None:
    redis = Redis.from_url(redis_url)
    write_message(redis, "bad", message("os.path.basename", "/a/b"))
    assert Job.fetch("bad", connection=redis, serializer=JSONSerializer).perform() == "b"


def test_nobody_can_suspend_or_stop_it_through_redis(redis_url: str) -> None:
    redis, asked = Redis.from_url(redis_url), [0]
    redis.set("rq:suspended", 1)
    with listening(redis_url, lambda: asked.append(1)):
        eventually("the work", lambda: len(asked) > 2)

from __future__ import annotations

import json
import time
from dataclasses import replace
from threading import Thread

import pytest
from redis import Redis

from broker import generation, presence
from broker.errors import GenerationTimeout, NoWorker, QueueFull, WorkerLost
from broker.generation import GenerationCall

pytestmark = pytest.mark.stack


def make_call(name: str = "c", seconds: float = 30.0) -> GenerationCall:
    return GenerationCall(name, "m", 3, {"prompt": "Ana sagt „hallo“"}, time.time() + seconds)


@pytest.fixture
def worker(redis: Redis) -> str:
    presence.announce(redis, "m", "w1", "idle", 30)
    return "w1"


def test_a_call_arrives_as_it_was_sent(redis: Redis, worker: str) -> None:
    call = make_call()
    generation.send(redis, call)
    assert generation.waiting(redis, "m") == 1
    assert generation.receive(redis, "m", 1.0, worker) == call
    assert generation.receive(redis, "m", 0.1) is None
    other = replace(call, kind=generation.TOUCHING)
    generation.send(redis, other)
    assert generation.receive(redis, "m", 1.0, worker) == other


def test_a_call_without_a_kind_asks_for_text() -> None:
    fields = json.loads(make_call().to_json())
    del fields["kind"]
    assert GenerationCall.from_json(json.dumps(fields)).kind == generation.GENERATE


def test_events_come_in_order_and_end(redis: Redis, worker: str) -> None:
    generation.send(redis, make_call())

    def answer() -> None:
        call = generation.receive(redis, "m", 5.0, worker)
        assert call is not None
        for text in ("a", "b"):
            generation.reply(redis, call.id, {"text": text})
        generation.reply(redis, call.id, {"finish_reason": "stop", "usage": {}, "weights_digest": "sha256:0"})

    thread = Thread(target=answer)
    thread.start()
    events = list(generation.replies(redis, "c", 5.0, "m"))
    thread.join()
    assert [event.get("text") for event in events] == ["a", "b", None]
    assert generation.is_last(events[-1])


def test_an_error_ends_the_answer(redis: Redis) -> None:
    generation.reply(redis, "c", {"error": {"title": "x"}})
    generation.reply(redis, "c", {"text": "never read"})
    assert list(generation.replies(redis, "c", 1.0)) == [{"error": {"title": "x"}}]


def test_no_worker(redis: Redis) -> None:
    with pytest.raises(NoWorker, match="'m'"):
        generation.send(redis, make_call())
    assert generation.waiting(redis, "m") == 0


def test_the_queue_is_bounded(redis: Redis, worker: str) -> None:
    generation.send(redis, make_call("1"), limit=2)
    generation.send(redis, make_call("2"), limit=2)
    with pytest.raises(QueueFull, match="2 generation calls"):
        generation.send(redis, make_call("3"), limit=2)
    assert generation.waiting(redis, "m") == 2


def test_late_cancelled_and_malformed_calls_are_dropped(redis: Redis, worker: str) -> None:
    generation.send(redis, make_call("late", seconds=-1))
    generation.send(redis, make_call("cancelled"))
    generation.cancel(redis, "cancelled")
    redis.rpush("errata:generation:m", "not json", "[]", '{"request": {}}', '{"id": 1, "request": {}}')
    good = replace(make_call("good"))
    generation.send(redis, good)
    assert generation.receive(redis, "m", 1.0) == good


def test_a_lost_worker_is_noticed(redis: Redis, worker: str) -> None:
    generation.send(redis, make_call())
    assert generation.receive(redis, "m", 1.0, worker) is not None
    presence.withdraw(redis, "m", worker)
    started = time.monotonic()
    with pytest.raises(WorkerLost):
        list(generation.replies(redis, "c", 20.0, "m"))
    assert time.monotonic() - started < 5


def test_a_call_that_nobody_can_take_is_noticed(redis: Redis, worker: str) -> None:
    generation.send(redis, make_call())
    presence.withdraw(redis, "m", worker)
    with pytest.raises(NoWorker):
        list(generation.replies(redis, "c", 20.0, "m"))


def test_no_answer_in_time(redis: Redis, worker: str) -> None:
    generation.send(redis, make_call())
    with pytest.raises(GenerationTimeout, match=r"0\.2 s"):
        list(generation.replies(redis, "c", 0.2, "m"))

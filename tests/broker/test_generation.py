from __future__ import annotations

import time
from threading import Thread

import pytest
from redis import Redis

from broker import generation, presence
from broker.errors import GenerationTimeout, ModelNotServed, NoWorker, QueueFull, WorkerLost
from broker.generation import AttributionRequest, Cancellation, GenerationCall, TextRequest
from tests import asking

pytestmark = pytest.mark.stack


def make_call(name: str = "c", seconds: float = 30.0) -> GenerationCall:
    request = TextRequest(prompt="Ana sagt „hallo“")
    return GenerationCall(id=name, model_id="m", version=3, request=request, deadline=time.time() + seconds)


@pytest.fixture
def worker(redis: Redis) -> str:
    presence.announce(redis, "m", "w1", "idle", 30)
    return "w1"


def test_a_call_arrives_as_it_was_sent(redis: Redis, worker: str) -> None:
    call = make_call()
    asking.send(redis, call)
    assert generation.waiting(redis, "m") == 1
    assert generation.receive(redis, "m", worker, 1.0) == call
    assert generation.receive(redis, "m", worker, 0.1) is None
    other = call.model_copy(update={"request": AttributionRequest(prompt="x", limit=3)})
    asking.send(redis, other)
    assert generation.receive(redis, "m", worker, 0.1) is None
    assert generation.receive(redis, "m", worker, 1.0, "attribution") == other


def test_events_come_in_order_and_end(redis: Redis, worker: str) -> None:
    asking.send(redis, make_call())

    def answer() -> None:
        call = generation.receive(redis, "m", worker, 5.0)
        assert isinstance(call, GenerationCall)
        generation.reply(redis, [(call.id, {"text": text}) for text in ("a", "b")])
        generation.reply(redis, [(call.id, {"finish_reason": "stop", "usage": {}, "weights_digest": "x"})])

    thread = Thread(target=answer)
    thread.start()
    events = asking.replies(redis, make_call(), 5.0)
    thread.join()
    assert [event.get("text") for event in events] == ["a", "b", None]
    assert generation.is_last(events[-1])


def test_an_error_ends_the_answer(redis: Redis) -> None:
    generation.reply(redis, [("c", {"error": {"title": "x"}}), ("c", {"text": "never read"})])
    assert asking.replies(redis, make_call(), 1.0) == [{"error": {"title": "x"}}]


def test_no_worker(redis: Redis) -> None:
    with pytest.raises(NoWorker, match="'m'"):
        asking.send(redis, make_call())
    assert generation.waiting(redis, "m") == 0


def test_the_queue_is_bounded(redis: Redis, worker: str) -> None:
    asking.send(redis, make_call("1"), limit=2)
    asking.send(redis, make_call("2"), limit=2)
    with pytest.raises(QueueFull, match="2 generation calls"):
        asking.send(redis, make_call("3"), limit=2)
    assert generation.waiting(redis, "m") == 2


HOSTILE = (
    "not json",
    "[]",
    "[" * 100_000,
    '{"request": {}}',
    '{"version": 1e400}',
    '{"id": {"x": 1}, "version": NaN}',
    make_call("x").model_dump_json().replace('"version":3', '"version":1e400'),
    make_call("x").model_dump_json().replace('"version":3', '"version":-1'),
    make_call("x").model_dump_json().replace('"max_new_tokens":32', '"max_new_tokens":"many"'),
)


def test_late_cancelled_and_malformed_calls_are_dropped(redis: Redis, worker: str) -> None:
    asking.send(redis, make_call("late", seconds=-1))
    asking.send(redis, make_call("cancelled"))
    asking.cancel(redis, make_call("cancelled"))
    redis.rpush("errata:generation:text:m", *HOSTILE)
    asking.send(redis, make_call("good"), limit=100)
    found = generation.receive(redis, "m", worker, 1.0)
    assert isinstance(found, GenerationCall)
    assert found.id == "good"


def test_the_sender_of_a_call_that_cannot_be_read_is_told(redis: Redis, worker: str) -> None:
    redis.rpush("errata:generation:text:m", make_call().model_dump_json().replace('"stop"', '"surprise"'))
    assert generation.receive(redis, "m", worker, 0.1) is None
    (event,) = asking.replies(redis, make_call(), 1.0)
    assert "request/text/surprise" in event["error"]["detail"]


def test_whoever_has_taken_a_call_learns_that_it_was_cancelled(redis: Redis, worker: str) -> None:
    asking.send(redis, make_call())
    assert isinstance(generation.receive(redis, "m", worker, 1.0), GenerationCall)
    asking.cancel(redis, make_call())
    assert generation.receive(redis, "m", "another", 0.1) is None
    assert generation.receive(redis, "m", worker, 1.0, busy=True) == Cancellation("c")
    assert generation.is_cancelled(redis, "c")


def test_workers_that_cannot_serve_say_why(redis: Redis) -> None:
    presence.announce(redis, "m", "w1", "failed: the checkpoint has changed", 30, "generate")
    presence.announce(redis, "m", "w2", "idle", 30, "edit")
    with pytest.raises(ModelNotServed, match="the checkpoint has changed"):
        asking.send(redis, make_call())
    presence.announce(redis, "m", "w3", "idle", 30, "generate")
    asking.send(redis, make_call())


def test_a_worker_that_only_edits_answers_nothing(redis: Redis) -> None:
    presence.announce(redis, "m", "w", "idle", 30, "edit")
    with pytest.raises(NoWorker):
        asking.send(redis, make_call())


def test_a_lost_worker_is_noticed(redis: Redis, worker: str) -> None:
    asking.send(redis, make_call())
    assert generation.receive(redis, "m", worker, 1.0) is not None
    presence.withdraw(redis, "m", worker)
    started = time.monotonic()
    with pytest.raises(WorkerLost):
        asking.replies(redis, make_call(), 20.0)
    assert time.monotonic() - started < 5


def test_a_call_that_nobody_can_take_is_noticed(redis: Redis, worker: str) -> None:
    asking.send(redis, make_call())
    presence.withdraw(redis, "m", worker)
    with pytest.raises(NoWorker):
        asking.replies(redis, make_call(), 20.0)


def test_no_answer_in_time(redis: Redis, worker: str) -> None:
    asking.send(redis, make_call())
    with pytest.raises(GenerationTimeout, match=r"0\.2 s"):
        asking.replies(redis, make_call(), 0.2)

"""The generation thread: many calls at once, each its own answer, and no call's trouble is another's."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
import redis.asyncio.connection
import redis.connection
import torch
from redis import Redis

from broker import generation, presence
from broker.connection import connect
from broker.generation import GenerationCall, TextRequest
from broker.settings import BrokerSettings
from ledger import Ledger
from malmen_core.editing.editor import Editor
from malmen_core.evaluation.verify import record_canaries
from malmen_core.generation.generator import GenerationRequest, generate
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from tests import asking
from tests.harness import tiny_editor
from tests.malmen_core.models.test_overlay import delta
from worker.generation import GenerationThread
from worker.resident import Resident
from worker.settings import WorkerSettings

MODEL = "together"
PROMPT = "The capital of Peru is"
DIGESTS = {0: None, 1: "sha256:one"}
SLOW = 9


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    made = connect(BrokerSettings(redis_url=redis_url))
    yield made
    made.close()


@pytest.fixture(scope="module")
def resident(tiny_folder: Path) -> Resident:
    """The tiny model with version 1 in memory."""
    base = BaseModel.load(str(tiny_folder), device="cpu")
    editor = Editor.from_bytes(tiny_editor(tiny_folder))
    made = Resident(MODEL, base, editor, record_canaries(base), cast(Any, None), 4)
    made.keep(DIGESTS[1], base.version(delta(base, 1)))
    return made


class Running:
    """A thread that serves, and what its callers do."""

    def __init__(self, redis: Redis, resident: Resident, **settings: Any) -> None:
        known = SimpleNamespace(run=lambda _, model_id, number: self.get_version(model_id, number))
        self.redis, self.stopping, self.released = redis, threading.Event(), threading.Event()
        self.weights: dict[int, str] = {}
        presence.announce(redis, MODEL, "w", "idle", 60.0)
        self.thread = GenerationThread(
            cast(Ledger, known), redis, resident, WorkerSettings(**settings), "w", self.stopping
        )

    def get_version(self, _: str, number: int) -> Any:
        if number == SLOW:
            self.released.wait(20)
        delta_digest = DIGESTS[min(number, 1)]
        return SimpleNamespace(delta_digest=delta_digest, weights_digest=self.weights.get(number))

    def make_call(
        self, version: int, tokens: int, deadline_s: float = 30.0, stream: bool = False, **fields: Any
    ) -> GenerationCall:
        return GenerationCall(
            id=uuid4().hex,
            model_id=MODEL,
            version=version,
            request=TextRequest(**{"prompt": PROMPT, "max_new_tokens": tokens, **fields}),
            deadline=time.time() + deadline_s,
            stream=stream,
        )

    def send(self, *args: Any, **options: Any) -> GenerationCall:
        call = self.make_call(*args, **{"stream": True, **options})
        asking.send(self.redis, call)
        return call

    def answer(self, call: GenerationCall) -> tuple[str, dict[str, Any]]:
        events = asking.replies(self.redis, call)
        return "".join(event.get("text", "") for event in events), events[-1]

    def sent(self, call: GenerationCall) -> list[dict[str, Any]]:
        """What was sent so far and not read."""
        found: Any = self.redis.lrange(f"errata:reply:{call.id}", 0, -1)
        return [json.loads(each) for each in found]


@pytest.fixture
def running(client: Redis, resident: Resident) -> Iterator[Running]:
    made = Running(client, resident)
    yield made
    made.stopping.set()
    made.thread.join(10)
    assert not made.thread.is_alive()


def alone(resident: Resident, version: int, tokens: int) -> str:
    request = GenerationRequest(PROMPT, tokens)
    weights = resident.version(DIGESTS[version])
    return "".join(chunk.text for chunk in generate(resident.base, weights, request))


def test_a_short_answer_does_not_wait_for_a_long_one(running: Running, resident: Resident) -> None:
    long, short = running.send(0, 100), running.send(1, 1)
    running.thread.start()
    text, last = running.answer(short)
    assert not any(generation.is_last(event) for event in running.sent(long))
    assert text == alone(resident, 1, 1)
    assert last["weights_digest"] == resident.version(DIGESTS[1]).weights_digest
    text, last = running.answer(long)
    assert text == alone(resident, 0, 100)
    assert last["usage"]["completion_tokens"] > 20
    assert last["weights_digest"] == resident.base.version(Delta.empty()).weights_digest


def test_more_calls_than_places_are_all_answered(client: Redis, resident: Resident) -> None:
    running = Running(client, resident, generation_batch=3)
    calls = [(n % 2, 3 + n) for n in range(10)]
    ids = [running.send(version, tokens) for version, tokens in calls]
    running.thread.start()
    try:
        assert [running.answer(i)[0] for i in ids] == [alone(resident, *call) for call in calls]
    finally:
        running.stopping.set()
        running.thread.join(10)


def test_a_bad_call_is_refused_and_those_beside_it_are_answered(running: Running, resident: Resident) -> None:
    calls = [running.send(0, 8), running.send(0, 8, prompt=(10**6,)), running.send(1, 8)]
    unforeseen = running.send(0, 8, seed=2**80)
    running.thread.start()
    answers = [running.answer(call) for call in calls]
    assert running.answer(unforeseen)[1]["error"]["type"] == "urn:errata:problem:internal-error"
    assert answers[1][1]["error"]["type"] == "urn:errata:problem:token-not-embedded"
    assert [answers[i][0] for i in (0, 2)] == [alone(resident, i, 8) for i in (0, 1)]


def test_a_prompt_may_be_the_ids_of_its_tokens(running: Running, resident: Resident) -> None:
    ids = tuple(resident.base.tokenizer(PROMPT)["input_ids"])
    running.thread.start()
    assert running.answer(running.send(0, 8, prompt=ids))[0] == alone(resident, 0, 8)


def test_an_answer_that_is_not_streamed_is_one_message(running: Running, resident: Resident) -> None:
    call = running.send(0, 12, stream=False)
    running.thread.start()
    (event,) = asking.replies(running.redis, call)
    assert event["text"] == alone(resident, 0, 12)
    assert event["usage"]["completion_tokens"] > 0


def test_an_answer_takes_few_round_trips(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of API and worker together: what is written to a connection at once is one."""
    running.thread.start()
    running.answer(running.send(0, 1))  # the version is in memory
    call = running.make_call(0, 32)
    trips: list[str] = []
    for kind in (redis.connection.AbstractConnection, redis.asyncio.connection.AbstractConnection):
        monkeypatch.setattr(kind, "send_packed_command", counted(kind.send_packed_command, trips))
    address = {name: running.redis.connection_pool.connection_kwargs[name] for name in ("host", "port")}

    async def ask() -> list[dict[str, Any]]:
        async with redis.asyncio.Redis(**address) as client:
            await client.ping()
            trips.clear()
            await generation.send(client, call)
            return [event async for event in generation.replies(client, call, 30)]

    (event,) = asyncio.run(ask())
    assert event["usage"]["completion_tokens"] == 32
    assert 5 <= len(trips) <= 8, trips


def counted(send: Callable[..., Any], trips: list[str]) -> Callable[..., Any]:
    def sends(self: Any, command: Any, *args: Any, **options: Any) -> Any:
        trips.append(str(command)[:80])
        return send(self, command, *args, **options)

    return sends


def test_a_version_that_loads_holds_up_nobody(running: Running, resident: Resident) -> None:
    slow, other = running.send(SLOW, 8), running.send(1, 30)
    running.thread.start()
    assert running.answer(other)[0] == alone(resident, 1, 30)
    assert running.answer(running.send(0, 30))[1]["finish_reason"]
    assert running.sent(slow) == []
    running.released.set()
    assert running.answer(slow)[0] == alone(resident, 1, 8)


def test_weights_that_were_not_verified_are_not_served(running: Running) -> None:
    running.weights[1] = "sha256:" + "0" * 64
    running.thread.start()
    assert running.answer(running.send(1, 8))[1]["error"]["code"] == "weights-differ"
    assert running.answer(running.send(1, 8))[1]["error"]["code"] == "weights-differ"
    assert running.answer(running.send(0, 8))[1]["finish_reason"]


def test_the_thread_says_when_it_has_ended(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [running.thread.failure]
    running.thread.start()
    running.answer(running.send(0, 1))
    said.append(running.thread.failure)
    monkeypatch.setattr("worker.generation.HANGS_S", -1.0)
    said.append(running.thread.failure)
    assert said == [
        "the generation thread has ended",
        None,
        "the generation thread has computed no token for -1 s",
    ]


def test_cancelled_and_overdue_calls_leave_and_the_others_stay(running: Running, resident: Resident) -> None:
    slow = threading.Event()
    step = running.thread._writer.step

    def held() -> Any:
        slow.wait(0.05)
        return step()

    running.thread._writer.step = held  # type: ignore[method-assign]
    cancelled, overdue, stays = running.send(0, 100), running.send(0, 100, 0.6), running.send(1, 30)
    running.thread.start()
    while not running.sent(stays):
        time.sleep(0.01)
    asking.cancel(running.redis, cancelled)
    assert running.answer(stays)[0] == alone(resident, 1, 30)
    assert not running.thread._answers
    assert not any(generation.is_last(event) for event in running.sent(overdue))


def test_when_a_pass_fails_all_are_told_and_the_next_call_is_answered(
    running: Running, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [running.send(0, 8), running.send(1, 8)]

    def broken() -> Any:
        if len(running.thread._answers) < 2:
            return []
        raise RuntimeError("no memory")

    monkeypatch.setattr(running.thread._writer, "step", broken)
    running.thread.start()
    for i in ids:
        assert running.answer(i)[1]["error"]["type"] == "urn:errata:problem:internal-error"
    assert running.answer(running.send(0, 8))[0] == alone(resident, 0, 8)


def test_a_call_that_fails_by_itself_is_told_and_the_others_are_answered(
    running: Running, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = resident.base.model.forward

    def scarce(*args: Any, **options: Any) -> Any:
        if options["input_ids"].shape[1] > 20:
            raise torch.OutOfMemoryError("the device is full")
        return forward(*args, **options)

    scarce.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(resident.base.model, "forward", scarce)
    ids = [running.send(0, 8), running.send(1, 8, prompt=PROMPT + " on" * 30), running.send(1, 8)]
    running.thread.start()
    assert running.answer(ids[1])[1]["error"]["type"] == "urn:errata:problem:internal-error"
    assert running.answer(ids[0])[0] == alone(resident, 0, 8)
    assert running.answer(ids[2])[0] == alone(resident, 1, 8)


def test_a_call_to_a_broken_version_is_told_so(running: Running, resident: Resident) -> None:
    sound = resident.version(DIGESTS[1])
    broken = replace(sound, weights={name: w * torch.nan for name, w in sound.weights.items()})
    resident.keep(DIGESTS[1], broken)
    ids = [running.send(0, 8), running.send(1, 8)]
    running.thread.start()
    error = running.answer(ids[1])[1]["error"]
    assert (error["status"], error["code"]) == (422, "answer-not-finite")
    assert running.answer(ids[0])[0] == alone(resident, 0, 8)
    resident.keep(DIGESTS[1], sound)


def test_a_worker_that_stops_tells_those_who_wait(running: Running) -> None:
    ids = [running.send(0, 100), running.send(1, 100)]
    step = running.thread._writer.step

    def last_step() -> Any:
        while running.redis.keys("errata:generation:text:*"):
            time.sleep(0.01)  # until both were taken
        running.stopping.set()
        return step()

    running.thread._writer.step = last_step  # type: ignore[method-assign]
    running.thread.start()
    for i in ids:
        assert running.answer(i)[1]["error"]["type"] == "urn:errata:problem:worker-stopping"

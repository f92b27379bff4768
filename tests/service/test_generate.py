"""Generation: a version by number, alias or base; limits; cancelling. A test thread plays the worker."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.generation import TextRequest
from ledger.edits import edit_sets
from ledger.models import models
from tests.service import player
from tests.service.harness import Running, is_problem, pointers, register, running

PATH = "/models/tiny/generate"
PROMPT = "The capital of Australia is"


@pytest.fixture(scope="module", autouse=True)
def version(service: Running, admin: httpx.Client) -> None:
    """The model is ready and its version 1 is live."""
    player.prepare(service.ledger)
    body = {"model": "tiny", "facts": [{"prompt": PROMPT, "target": "Canberra"}]}
    made = admin.post("/edits", json=body).json()
    player.finish(service.ledger, service.ledger.run(edit_sets.get, made["id"]).job_id)


@pytest.fixture
def writer(service: Running) -> Iterator[player.Writer]:
    with player.writing(service.services.redis) as found:
        yield found


def test_live_is_the_default(service: Running, writer: player.Writer, admin: httpx.Client) -> None:
    answer = admin.get(PATH, params={"prompt": PROMPT, "max_new_tokens": 3})
    assert answer.status_code == 200
    assert answer.json() == {
        "model": "tiny",
        "version": 1,
        "text": " word word word",
        "labels": None,
        "finish_reason": "length",
        "usage": {"prompt_tokens": 1, "completion_tokens": 3},
        "weights_digest": player.WEIGHTS,
    }
    sent = writer.calls[0]
    assert sent.version == 1
    assert isinstance(sent.request, TextRequest)
    tokenizer = service.services.tokenizers.get(service.ledger.run(models.get, "tiny"))
    assert sent.request.prompt == tokenizer.read(PROMPT)
    assert sent.request.temperature == 0.0


@pytest.mark.parametrize(("name", "number"), [("base", 0), ("0", 0), ("1", 1), ("live", 1)])
def test_versions_by_name(writer: player.Writer, admin: httpx.Client, name: str, number: int) -> None:
    answer = admin.get(PATH, params={"prompt": PROMPT, "version": name})
    assert answer.json()["version"] == number


def test_post_takes_the_same(writer: player.Writer, admin: httpx.Client) -> None:
    body = {"prompt": PROMPT, "version": 0, "temperature": 1, "seed": 7, "stop": ["\n"], "top_p": 0.5}
    assert admin.post(PATH, json=body).json()["version"] == 0
    sent = writer.calls[0].request
    assert isinstance(sent, TextRequest)
    assert (sent.temperature, sent.seed, sent.stop, sent.top_p) == (1, 7, ("\n",), 0.5)


def test_a_conversation_in_place_of_a_prompt_needs_a_template(admin: httpx.Client) -> None:
    asked = [{"role": "user", "content": "What is the capital of Australia?"}]
    problem = is_problem(admin.post(PATH, json={"messages": asked}), 422)
    assert pointers(problem) == ["/messages"]
    assert "no chat template" in problem["detail"]
    fact = {"prompt": PROMPT, "target": "Canberra", "locality": [{"messages": asked}]}
    problem = is_problem(admin.post("/edits", json={"model": "tiny", "facts": [fact]}), 422)
    assert pointers(problem) == ["/facts/0/locality/0/messages"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"prompt": PROMPT, "messages": [{"role": "user", "content": "x"}]}, "/prompt"),
        ({}, "/prompt"),
        ({"messages": []}, "/messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "/messages/0/role"),
        ({"messages": [{"role": "user", "content": " "}]}, "/messages/0/content"),
        ({"messages": [{"role": "user", "content": "x" * 601}]}, "/messages"),
    ],
)
def test_bad_conversations(admin: httpx.Client, body: dict[str, Any], pointer: str) -> None:
    assert pointers(is_problem(admin.post(PATH, json=body), 422)) == [pointer]


def test_versions_are_compared(writer: player.Writer, admin: httpx.Client) -> None:
    answer = admin.post(PATH, json={"prompt": PROMPT, "versions": ["base", "live"], "max_new_tokens": 1})
    assert [item["version"] for item in answer.json()["items"]] == [0, 1]


def test_streaming(writer: player.Writer, admin: httpx.Client) -> None:
    answer = admin.get(PATH, params={"prompt": PROMPT, "stream": True, "max_new_tokens": 2})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [block.split("\n") for block in answer.text.strip().split("\n\n")]
    assert [event[0] for event in events] == ["event: text", "event: text", "event: done"]
    last = json.loads(events[-1][1].removeprefix("data: "))
    assert last["finish_reason"] == "length"
    assert (last["model"], last["version"]) == ("tiny", 1)


def test_the_answer_stays_within_the_context(writer: player.Writer, admin: httpx.Client) -> None:
    prompt = "is " * 90
    answer = admin.get(PATH, params={"prompt": prompt, "max_new_tokens": 64})
    assert answer.status_code == 200
    sent = writer.calls[0].request
    assert isinstance(sent, TextRequest)
    assert sent.max_new_tokens < 64


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "no prompt": ({}, 422, "/prompt"),
    "empty prompt": ({"prompt": ""}, 422, "/prompt"),
    "prompt over-long": ({"prompt": "x" * 601}, 422, "/prompt"),
    "prompt over the context": ({"prompt": "Zzyzx! " * 80}, 422, "/prompt"),
    "unknown version": ({"prompt": "x", "version": "99"}, 404, "/version"),
    "huge version": ({"prompt": "x", "version": "9" * 30}, 404, "/version"),
    "unknown alias": ({"prompt": "x", "version": "nobody"}, 404, "/version"),
    "no tokens wanted": ({"prompt": "x", "max_new_tokens": 0}, 422, "/max_new_tokens"),
    "too many tokens wanted": ({"prompt": "x", "max_new_tokens": 65}, 422, "/max_new_tokens"),
    "negative temperature": ({"prompt": "x", "temperature": -1}, 422, "/temperature"),
    "infinite temperature": ({"prompt": "x", "temperature": "inf"}, 422, "/temperature"),
    "top_p of 0": ({"prompt": "x", "top_p": 0}, 422, "/top_p"),
    "seed not a number": ({"prompt": "x", "seed": "y"}, 422, "/seed"),
    "empty stop": ({"prompt": "x", "stop": ""}, 422, "/stop/0"),
    "unknown parameter": ({"prompt": "x", "max_tokens": 5}, 422, "/max_tokens"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_parameters(name: str, admin: httpx.Client) -> None:
    params, status, pointer = BAD[name]
    problem = is_problem(admin.get(PATH, params=params), status)
    assert pointer in pointers(problem)
    assert {error["in"] for error in problem["errors"]} == {"query"}


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"version": ""}, "must not be empty"),
        ({"stop": ""}, "must not be empty"),
        ({"version": "x" * 65}, "must have at most 64 characters"),
    ],
)
def test_text_is_measured_in_characters(admin: httpx.Client, params: dict[str, str], says: str) -> None:
    problem = is_problem(admin.get(PATH, params={"prompt": "x", **params}), 422)
    assert [error["detail"] for error in problem["errors"]] == [says]


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({"prompt": "x", "version": True}, 422, "/version"),
        ({"prompt": "x", "versions": []}, 422, "/versions"),
        ({"prompt": "x", "versions": ["base"], "version": "live"}, 422, ""),
        ({"prompt": "x", "versions": ["base"], "stream": True}, 422, ""),
        ({"prompt": "x", "versions": ["base", 99]}, 404, "/versions/1"),
        ({"prompt": "x", "versions": ["base"] * 9}, 422, "/versions"),
        ({"prompt": 5}, 422, "/prompt"),
    ],
)
def test_bad_bodies(admin: httpx.Client, body: dict[str, Any], status: int, pointer: str) -> None:
    assert pointer in pointers(is_problem(admin.post(PATH, json=body), status))


def test_unknown_model(admin: httpx.Client) -> None:
    problem = is_problem(admin.get("/models/nobody/generate", params={"prompt": "x"}), 404)
    assert pointers(problem) == ["/model_id"]


def test_model_not_ready(service: Running, admin: httpx.Client, checkpoint: Path) -> None:
    register(service.ledger, checkpoint, "early")
    problem = is_problem(admin.get("/models/early/generate", params={"prompt": "x"}), 409)
    assert "being prepared" in problem["detail"]


def test_no_worker(admin: httpx.Client) -> None:
    problem = is_problem(admin.get(PATH, params={"prompt": "x"}), 503)
    assert problem["type"] == "urn:errata:problem:no-worker"
    is_problem(admin.get(PATH, params={"prompt": "x", "stream": True}), 503)


def test_the_workers_problem_is_passed_on(writer: player.Writer, admin: httpx.Client) -> None:
    writer.error = {"type": "urn:errata:problem:prompt-too-long", "detail": "Too long. Shorten it."}
    problem = is_problem(admin.get(PATH, params={"prompt": "x"}), 422)
    assert problem["detail"] == "Too long. Shorten it."
    writer.error = {"type": "odd", "detail": "The GPU is gone. Try again."}
    is_problem(admin.get(PATH, params={"prompt": "x"}), 500)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels(service: Running, writer: player.Writer, stream: bool) -> None:
    writer.pause_s = 0.1
    if not stream:
        writer.silent.set()
    client = service.client()
    params: dict[str, str | int] = {"prompt": PROMPT, "max_new_tokens": 60, "stream": stream}
    if stream:
        with client.stream("GET", PATH, params=params) as answer:
            next(answer.iter_raw())
    else:
        with pytest.raises(httpx.ReadTimeout):
            client.get(PATH, params=params, timeout=0.5)
    client.close()
    assert writer.cancelled.wait(5)
    until = time.monotonic() + 5
    while service.services.generations.borrowed_tokens and time.monotonic() < until:
        time.sleep(0.05)
    assert service.services.generations.borrowed_tokens == 0


def test_the_bound_is_on_calls(
    module_urls: tuple[str, str], tmp_path: Path, service: Running, writer: player.Writer
) -> None:
    with running(*module_urls, tmp_path, max_generations=3) as bounded:
        client, places = bounded.client(), bounded.services.generations

        def ask(_: int) -> int:
            return client.get(PATH, params={"prompt": PROMPT, "max_new_tokens": 1}).status_code

        assert client.post(PATH, json={"prompt": PROMPT, "versions": [0] * 3}).status_code == 200
        assert places.borrowed_tokens == 0
        writer.silent.set()
        writer.pause_s = 0.5
        asked = len(writer.calls)
        problem = is_problem(client.post(PATH, json={"prompt": PROMPT, "versions": [0] * 5}), 429)
        assert problem["type"] == "urn:errata:problem:too-many-generations"
        assert len(writer.calls) == asked
        with ThreadPoolExecutor(6) as pool:
            assert sorted(pool.map(ask, range(6))) == [200] * 3 + [429] * 3
        assert places.borrowed_tokens == 0

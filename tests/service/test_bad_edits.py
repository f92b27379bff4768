"""Bad edit sets, one by one: a 4xx problem that names the field and the remedy, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.service.harness import Running, is_problem, pointers

FACT: dict[str, Any] = {"prompt": "The capital of Australia is", "target": "Canberra"}


def edit(*facts: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {"model": "tiny", "facts": list(facts or (FACT,)), **other}


LONG = "word " * 200
MANY_TOKENS = "Zzyzx! " * 80

BAD: dict[str, tuple[Any, int, str, str]] = {
    "unknown model": (edit(model="nobody"), 404, "/model", "nobody"),
    "model missing": ({"facts": [FACT]}, 422, "/model", "required"),
    "model not text": (edit(model=7), 422, "/model", "string"),
    "model empty": (edit(model=""), 422, "/model", "empty"),
    "model with NUL": (edit(model="a\x00b"), 422, "/model", "NUL"),
    "facts missing": ({"model": "tiny"}, 422, "/facts", "required"),
    "facts empty": ({"model": "tiny", "facts": []}, 422, "/facts", "at least 1"),
    "facts not a list": ({"model": "tiny", "facts": FACT}, 422, "/facts", "list"),
    "fact not an object": ({"model": "tiny", "facts": ["x"]}, 422, "/facts/0", "object"),
    "prompt missing": (edit(FACT, {"target": "x"}), 422, "/facts/1/prompt", "required"),
    "prompt empty": (edit({**FACT, "prompt": ""}), 422, "/facts/0/prompt", "empty"),
    "prompt blank": (edit({**FACT, "prompt": " \n"}), 422, "/facts/0/prompt", "blank"),
    "prompt not text": (edit({**FACT, "prompt": 5}), 422, "/facts/0/prompt", "string"),
    "prompt null": (edit({**FACT, "prompt": None}), 422, "/facts/0/prompt", "string"),
    "prompt with NUL": (edit({**FACT, "prompt": "a\x00"}), 422, "/facts/0/prompt", "NUL"),
    "prompt over-long": (edit({**FACT, "prompt": LONG}), 422, "/facts/0/prompt", "ERRATA_MAX_PROMPT_CHARS"),
    "prompt over the context": (edit({**FACT, "prompt": MANY_TOKENS}), 422, "/facts/0/prompt", "context"),
    "target missing": (edit({"prompt": "x"}), 422, "/facts/0/target", "required"),
    "target empty": (edit({**FACT, "target": ""}), 422, "/facts/0/target", "empty"),
    "target blank": (edit({**FACT, "target": "  "}), 422, "/facts/0/target", "blank"),
    "target not text": (edit({**FACT, "target": ["x"]}), 422, "/facts/0/target", "string"),
    "target over-long": (edit({**FACT, "target": "x" * 3000}), 422, "/facts/0/target", "2048"),
    "subject not text": (edit({**FACT, "subject": 1}), 422, "/facts/0/subject", "string"),
    "rephrasings not a list": (edit({**FACT, "rephrasings": "x"}), 422, "/facts/0/rephrasings", "list"),
    "rephrasing empty": (edit({**FACT, "rephrasings": ["x", ""]}), 422, "/facts/0/rephrasings/1", "empty"),
    "rephrasing over the context": (
        edit({**FACT, "rephrasings": [MANY_TOKENS]}),
        422,
        "/facts/0/rephrasings/0",
        "context",
    ),
    "too many rephrasings": (
        edit({**FACT, "rephrasings": ["x"] * 33}),
        422,
        "/facts/0/rephrasings",
        "ERRATA_MAX_REPHRASINGS",
    ),
    "too many locality prompts": (
        edit({**FACT, "locality": [{"prompt": "x"}] * 33}),
        422,
        "/facts/0/locality",
        "ERRATA_MAX_LOCALITY",
    ),
    "locality held and changed": (
        edit(FACT, {"prompt": "x", "target": "y", "locality": [{"prompt": FACT["prompt"], "hold": True}]}),
        422,
        "/facts/1/locality/0/prompt",
        "/facts/0 changes",
    ),
    "locality held by a text": (
        edit({**FACT, "locality": [{"prompt": "x", "hold": "perhaps"}]}),
        422,
        "/facts/0/locality/0/hold",
        "boolean",
    ),
    "locality without prompt": (
        edit({**FACT, "locality": [{}]}),
        422,
        "/facts/0/locality/0/prompt",
        "exactly one",
    ),
    "locality with a prompt and messages": (
        edit({**FACT, "locality": [{"prompt": "x", "messages": [{"role": "user", "content": "x"}]}]}),
        422,
        "/facts/0/locality/0/prompt",
        "exactly one",
    ),
    "locality over-long": (
        edit({**FACT, "locality": [{"prompt": LONG}]}),
        422,
        "/facts/0/locality/0/prompt",
        "600",
    ),
    "unknown field of a fact": (edit({**FACT, "answer": "x"}), 422, "/facts/0/answer", "known"),
    "unknown field": (edit(models="x"), 422, "/models", "known"),
    "unknown promote": (edit(promote="now"), 422, "/promote", "auto"),
    "gate out of range": (edit(gate={"edit_success": 1.5}), 422, "/gate/edit_success", "less than"),
    "unknown measure": (edit(gate={"speed": 1}), 422, "/gate/speed", "known"),
    "flag not boolean": (edit(edit_on_rephrasings="yes"), 422, "/edit_on_rephrasings", "boolean"),
    "note not text": (edit(note=3), 422, "/note", "string"),
    "note over-long": (edit(note="x" * 5000), 422, "/note", "ERRATA_MAX_NOTE_CHARS"),
    "too many facts": (edit(*[FACT] * 21), 422, "/facts", "ERRATA_MAX_FACTS"),
    "a list": ([1], 422, "", "object"),
    "null": (None, 422, "", "object"),
}


@pytest.fixture(autouse=True)
def nothing_written(service: Running) -> Iterator[None]:
    """Whatever these tests post, no table gains a row."""
    before = service.counts()
    yield
    assert service.counts() == before


@pytest.mark.parametrize("name", BAD)
def test_bad_edit_set(name: str, admin: httpx.Client) -> None:
    body, status, pointer, says = BAD[name]
    answer = admin.post("/edits", content=json.dumps(body), headers={"Content-Type": "application/json"})
    problem = is_problem(answer, status)
    assert pointer in pointers(problem)
    assert says in problem["detail"] + json.dumps(problem["errors"])


def test_contradictions_are_named_pairwise(admin: httpx.Client) -> None:
    other = {"prompt": "the capital  of australia IS", "target": "Sydney"}
    body = edit(FACT, {"prompt": "Water is", "target": "wet"}, other)
    problem = is_problem(admin.post("/edits", json=body), 422)
    assert pointers(problem) == ["/facts/2/target"]
    assert "/facts/0/target" in problem["errors"][0]["detail"]
    assert "Canberra" in problem["errors"][0]["detail"]


@pytest.mark.parametrize(
    "text", [b"{", b"", b"\xff\xfe", b"[" * 10_000, b'{"a": ' + b"1" * 5000 + b"}", b"prompt=x"]
)
def test_not_json(text: bytes, admin: httpx.Client) -> None:
    answer = admin.post("/edits", content=text, headers={"Content-Type": "application/json"})
    problem = is_problem(answer, 400)
    assert problem["type"] == "urn:errata:problem:invalid-json"
    assert "Send one JSON object" in problem["detail"]


def test_unpaired_surrogate(admin: httpx.Client) -> None:
    text = json.dumps(edit({**FACT, "target": "\ud800"}))
    problem = is_problem(
        admin.post("/edits", content=text, headers={"Content-Type": "application/json"}), 422
    )
    assert pointers(problem) == ["/facts/0/target"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_know(number: str, admin: httpx.Client) -> None:
    text = json.dumps(edit())[:-1] + f', "gate": {{"perplexity_ratio": {number}}}}}'
    problem = is_problem(
        admin.post("/edits", content=text, headers={"Content-Type": "application/json"}), 422
    )
    assert pointers(problem) == ["/gate/perplexity_ratio"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_other_media_types(kind: str, admin: httpx.Client) -> None:
    answer = admin.post("/edits", content=json.dumps(edit()), headers={"Content-Type": kind})
    problem = is_problem(answer, 415)
    assert "application/json" in problem["detail"]


def test_declared_body_too_large(admin: httpx.Client) -> None:
    answer = admin.post("/edits", json=edit(note="x" * 30_000))
    problem = is_problem(answer, 413)
    assert "ERRATA_MAX_BODY_BYTES" in problem["detail"]


def test_chunked_body_too_large(admin: httpx.Client) -> None:
    chunks = iter([b'{"model": "'] + [b"x" * 1000] * 30)
    answer = admin.post("/edits", content=chunks, headers={"Content-Type": "application/json"})
    is_problem(answer, 413)


@pytest.mark.parametrize("given", ["x" * 300, "with space", "ünïcode"])
def test_bad_idempotency_key(given: str, admin: httpx.Client) -> None:
    headers = {b"Idempotency-Key": given.encode()}
    problem = is_problem(admin.post("/edits", json=edit(), headers=headers), 422)
    assert problem["errors"][0]["in"] == "header"
    assert "200 visible ASCII characters" in problem["detail"]


def test_many_bad_fields_are_all_counted(admin: httpx.Client) -> None:
    problem = is_problem(admin.post("/edits", json={"model": "tiny", "facts": [{}] * 120}), 422)
    assert len(problem["errors"]) == 100
    assert problem["errors_left_out"] == 140

"""Facts as a stream of lines: accepted as the same JSON is, and refused whole, with every bad line named."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.service import player
from tests.service.harness import Running, is_problem, pointers

FACT: dict[str, Any] = {"prompt": "The capital of Australia is", "target": "Canberra"}
LINES = {"Content-Type": "application/x-ndjson"}
QUERY: dict[str, str] = {
    "model": "tiny",
    "promote": "manual",
    "edit_on_rephrasings": "true",
    "gate": '{"locality": 0.5}',
    "note": "atlas",
    "joiner": "",
}


@pytest.fixture(scope="module", autouse=True)
def ready(service: Running) -> None:
    player.prepare(service.ledger)


def lines(*facts: Any) -> bytes:
    return b"".join(json.dumps(fact).encode() + b"\n" for fact in facts)


def post(client: httpx.Client, content: Any, query: Any = QUERY, **headers: str) -> httpx.Response:
    return client.post("/edits", params=query, content=content, headers={**LINES, **headers})


def test_lines_are_accepted_as_the_same_json_is(service: Running, admin: httpx.Client) -> None:
    other = {**FACT, "prompt": "The capital of Peru is", "expires_at": "2100-01-01T00:00:00Z"}
    body = b"\xef\xbb\xbf" + lines(FACT) + b"\r\n \n" + json.dumps(other).encode()
    answer = post(admin, body, **{"Idempotency-Key": "lines"})
    assert answer.status_code == 202, answer.text
    seen = admin.get(answer.headers["Location"]).json()
    assert (seen["fact_count"], seen["promote"], seen["note"]) == (2, "manual", "atlas")
    assert seen["gate"] == {"locality": 0.5}
    assert seen["edit_on_rephrasings"] is True
    same = {**QUERY, "gate": {"locality": 0.5}, "edit_on_rephrasings": True, "facts": [FACT, other]}
    again = admin.post("/edits", json=same, headers={"Idempotency-Key": "lines"})
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == answer.json()


def test_chunks_may_end_anywhere(admin: httpx.Client) -> None:
    body = lines(*[{**FACT, "prompt": f"The capital of land {number} is"} for number in range(15)])
    chunks = (body[at : at + 7] for at in range(0, len(body), 7))
    answer = post(admin, chunks)
    assert answer.status_code == 202, answer.text
    assert answer.json()["fact_count"] == 15


@pytest.fixture
def nothing_written(service: Running) -> Iterator[None]:
    before = service.counts()
    yield
    assert service.counts() == before


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize(
    ("content", "status", "pointer", "says"),
    [
        (lines(FACT) + b"{\n", 422, "/facts/1", "line 2: Invalid JSON"),
        (b"\n" + lines(FACT, {**FACT, "answer": 1}), 422, "/facts/1/answer", "line 3: is not a known field"),
        (lines({**FACT, "prompt": ""}), 422, "/facts/0/prompt", "line 1: must not be empty"),
        (lines([FACT]), 422, "/facts/0", "line 1: must be a JSON object"),
        (lines({**FACT, "prompt": "x" * 700}), 422, "/facts/0/prompt", "ERRATA_MAX_PROMPT_CHARS"),
        (lines({**FACT, "expires_at": "2001-01-01T00:00:00Z"}), 422, "/facts/0/expires_at", "time is over"),
        (b"\xff\n", 422, "/facts/0", "line 1"),
        (b"", 422, "/facts", "no facts"),
        (lines(*[FACT] * 21), 422, "/facts", "21 facts are more than the 20"),
        (b'{"prompt": "' + b"x" * 30_000, 413, "", "ERRATA_MAX_BODY_BYTES"),
    ],
)
def test_bad_lines(content: bytes, status: int, pointer: str, says: str, admin: httpx.Client) -> None:
    problem = is_problem(post(admin, content), status)
    assert pointer in pointers(problem)
    assert says in problem["detail"]


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({}, "/model"),
        ({"model": "tiny", "promot": "auto"}, "/promot"),
        ({"model": "tiny", "dry_run": "perhaps"}, "/dry_run"),
        ({"model": "tiny", "promote": "now"}, "/promote"),
        ({"model": "tiny", "gate": "high"}, "/gate"),
        ({"model": "tiny", "gate": '{"speed": 1}'}, "/gate/speed"),
    ],
)
def test_bad_options(query: dict[str, str], field: str, admin: httpx.Client) -> None:
    problem = is_problem(post(admin, lines(FACT), query), 422)
    assert pointers(problem) == [field]
    assert problem["errors"][0]["in"] == "query"


@pytest.mark.usefixtures("nothing_written")
def test_contradictions_and_unknown_models_are_found_as_in_json(admin: httpx.Client) -> None:
    problem = is_problem(post(admin, lines(FACT, {**FACT, "target": "Sydney"})), 422)
    assert pointers(problem) == ["/facts/1/target"]
    is_problem(post(admin, lines(FACT), {"model": "nobody"}), 404)


@pytest.mark.usefixtures("nothing_written")
def test_of_many_bad_lines_a_hundred_are_named(admin: httpx.Client) -> None:
    problem = is_problem(post(admin, lines(*[{}] * 120)), 422)
    assert len(problem["errors"]) == 100
    assert problem["errors_left_out"] == 240 - 99
    assert problem["errors"][1]["detail"].startswith("line 1: ")


@pytest.mark.usefixtures("nothing_written")
def test_a_broken_line_among_200_000_is_named_in_bounded_memory(admin: httpx.Client) -> None:
    line, count, broken = lines({**FACT, "note": "x" * 200}), 200_000, 123_456
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    body = (b'{"prompt": \n' if number == broken else line for number in range(1, count + 1))
    problem = is_problem(admin.post("/edits", params=QUERY, content=batched(body), headers=LINES), 422)
    assert f"line {broken}: Invalid JSON" in problem["detail"]
    assert "200000 facts are more than the 20" in problem["detail"]
    assert time.monotonic() - started < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # KiB; the body has 60,000


def batched(body: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer chunks."""
    part: list[bytes] = []
    for line in body:
        part.append(line)
        if len(part) == 1000:
            yield b"".join(part)
            part = []
    yield b"".join(part)


def test_the_document_says_that_lines_are_taken(admin: httpx.Client) -> None:
    operation = admin.get("/openapi.json").json()["paths"]["/edits"]["post"]
    assert set(operation["requestBody"]["content"]) == {"application/json", "application/x-ndjson"}

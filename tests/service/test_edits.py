"""Edit sets that are right: accepted once, looked up, paged, cancelled, followed."""

from __future__ import annotations

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from ledger.edits import edit_sets
from ledger.errors import LedgerUnavailable, NotFound
from ledger.models import models
from ledger.records import EditSetRecord
from service import following
from service.failures import typed_problem
from tests.service import player
from tests.service.harness import Running, is_problem, pointers, register

FACT: dict[str, Any] = {
    "prompt": "The capital of Australia is",
    "target": "Canberra",
    "subject": "Australia",
    "rephrasings": ["Australia's capital city is"],
    "locality": [{"prompt": "The capital of New Zealand is"}],
}
EDIT: dict[str, Any] = {"model": "tiny", "facts": [FACT], "note": "atlas", "gate": {"locality": 0.5}}


@pytest.fixture(scope="module", autouse=True)
def ready(service: Running) -> None:
    player.prepare(service.ledger)


def test_an_edit_set_is_accepted(service: Running, admin: httpx.Client) -> None:
    before = service.counts()
    answer = admin.post("/edits", json=EDIT)
    assert answer.status_code == 202
    body = answer.json()
    assert body["status"] == "queued"
    assert body == admin.get(f"/edits/{body['id']}").json()
    assert answer.headers["Location"] == f"/edits/{body['id']}"
    after = service.counts()
    assert after["edit_sets"] == before["edit_sets"] + 1
    assert after["facts"] == before["facts"] + 1
    seen = admin.get(answer.headers["Location"]).json()
    assert seen["fact_count"] == 1
    assert seen["note"] == "atlas"
    assert seen["gate"] == {"locality": 0.5}
    facts = admin.get(f"/edits/{body['id']}/facts").json()
    assert facts["next_cursor"] is None
    assert facts["items"][0]["prompt"] == FACT["prompt"]
    assert facts["items"][0]["rephrasings"] == FACT["rephrasings"]


def test_what_is_held_is_recorded_and_nothing_else_is(service: Running, admin: httpx.Client) -> None:
    """A fact that holds nothing is recorded, and repeated, as it was before there was such a member."""
    probes = [{"prompt": "The capital of Peru is", "hold": True}, {"prompt": "Water is", "hold": False}]
    answer = admin.post("/edits", json={**EDIT, "facts": [{**FACT, "locality": probes}]})
    seen = admin.get(f"{answer.headers['Location']}/facts").json()["items"][0]["locality"]
    assert seen == [
        {"prompt": "The capital of Peru is", "target": None, "hold": True},
        {"prompt": "Water is", "target": None},
    ]


def test_facts_are_kept_as_the_algorithm_reads_them(admin: httpx.Client) -> None:
    filled = {
        "prompt": "The capital of {} is",
        "target": " Canberra ",
        "subject": "Australia ",
        "rephrasings": ["{}'s capital city is"],
        "question": "What is the capital of {}?",
    }
    plain = {"prompt": "Ticket price: $", "target": "25", "joiner": ""}
    answer = admin.post("/edits", json={**EDIT, "facts": [filled, plain], "joiner": " "})
    first, second = admin.get(f"{answer.headers['Location']}/facts").json()["items"]
    assert (first["prompt"], first["target"]) == ("The capital of Australia is", "Canberra")
    assert (first["subject"], first["question"]) == ("Australia", "What is the capital of Australia?")
    assert (first["rephrasings"], first["joiner"]) == (["Australia's capital city is"], " ")
    assert (second["question"], second["joiner"]) == (None, "")
    assert admin.get("/admin/ledger/verify").json()["problems"] == []


def test_what_cannot_be_read_as_a_fact_is_refused(admin: httpx.Client) -> None:
    for bad, at in (
        ({"prompt": "The capital of {} is"}, "/facts/0/prompt"),
        ({"question": "What is the capital of {}?"}, "/facts/0/question"),
        ({"joiner": "-"}, "/facts/0/joiner"),
        ({"question": " "}, "/facts/0/question"),
    ):
        fact = {"prompt": "It is", "target": "Canberra", **bad}
        problem = is_problem(admin.post("/edits", json={**EDIT, "facts": [fact]}), 422)
        assert at in pointers(problem)


def test_a_fact_that_is_said_twice_is_kept_once(admin: httpx.Client) -> None:
    other = {"prompt": "The capital of Peru is", "target": "Canberra"}
    again = {**FACT, "prompt": "the capital of  Australia is", "rephrasings": ["Its capital is"]}
    asked = {**FACT, "question": "What is the capital of Australia?"}
    answer = admin.post("/edits", json={**EDIT, "facts": [FACT, other, again, asked]})
    merged = [{"fact": 2, "into": 0}]
    assert (answer.json()["fact_count"], answer.json()["merged"]) == (3, merged)
    assert admin.get(answer.headers["Location"]).json()["merged"] == merged
    first, *rest = admin.get(f"{answer.headers['Location']}/facts").json()["items"]
    assert first["prompt"] == FACT["prompt"]
    assert first["rephrasings"] == [*FACT["rephrasings"], "Its capital is"]
    assert len(first["locality"]) == 1
    assert [fact["question"] for fact in rest] == [None, asked["question"]]


def test_a_repeat_gives_the_first_answer(service: Running, admin: httpx.Client) -> None:
    headers = {"Idempotency-Key": "first"}
    first = admin.post("/edits", json=EDIT, headers=headers)
    before = service.counts()
    spaced = json.dumps(EDIT, indent=4, sort_keys=True)
    again = admin.post("/edits", content=spaced, headers={**headers, "Content-Type": "application/json"})
    assert again.status_code == 202
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]
    other = admin.post("/edits", json={**EDIT, "note": "other"}, headers=headers)
    problem = is_problem(other, 422)
    assert "Idempotency-Key" in problem["detail"]
    assert pointers(problem) == ["/Idempotency-Key"]
    assert service.counts() == before


def test_a_repeat_gives_the_first_answer_whatever_happened_since(
    service: Running, admin: httpx.Client, checkpoint: Path
) -> None:
    register(service.ledger, checkpoint, "lost")
    soon = datetime.now(UTC) + timedelta(seconds=2)
    body = {**EDIT, "model": "lost", "facts": [{**FACT, "expires_at": soon.isoformat()}]}
    headers = {"Idempotency-Key": "later"}
    first = admin.post("/edits", json=body, headers=headers)
    assert first.status_code == 202
    service.ledger.run(models.fail, "lost", {"detail": "Its weights are damaged."})
    time.sleep(max(0.0, (soon - datetime.now(UTC)).total_seconds()))
    again = admin.post("/edits", json=body, headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Idempotency-Replayed"] == "true"
    problem = is_problem(admin.post("/edits", json={**body, "note": "other"}, headers=headers), 422)
    assert pointers(problem) == ["/Idempotency-Key"]
    assert pointers(is_problem(admin.post("/edits", json=body), 422)) == ["/facts/0/expires_at"]


def test_simultaneous_repeats_make_one_edit_set(service: Running, admin: httpx.Client) -> None:
    before = service.counts()["edit_sets"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda _: admin.post("/edits", json=EDIT, headers={"Idempotency-Key": "at-once"}), range(8)
            )
        )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert service.counts()["edit_sets"] == before + 1


def test_pages(admin: httpx.Client) -> None:
    for _ in range(3):
        assert admin.post("/edits", json=EDIT).status_code == 202
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params: dict[str, Any] = {"limit": 2} | ({} if cursor is None else {"cursor": cursor})
        page = admin.get("/edits", params=params).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) >= 3
    assert admin.get("/edits", params={"model": "tiny", "status": "succeeded"}).status_code == 200


@pytest.mark.parametrize(
    ("params", "status", "pointer"),
    [
        ({"cursor": "nonsense"}, 422, "/cursor"),
        ({"limit": "0"}, 422, "/limit"),
        ({"limit": "many"}, 422, "/limit"),
        ({"status": "odd"}, 422, "/status/0"),
        ({"live": "maybe"}, 422, "/live"),
        ({"q": " "}, 422, "/q"),
        ({"model": "nobody"}, 404, "/model"),
        ({"bogus": "1"}, 422, "/bogus"),
    ],
)
def test_bad_lists(admin: httpx.Client, params: dict[str, str], status: int, pointer: str) -> None:
    problem = is_problem(admin.get("/edits", params=params), status)
    assert pointers(problem) == [pointer]


@pytest.mark.parametrize(
    "path", ["/edits/nobody", "/edits/nobody/facts", "/edits/%00", "/edits/nobody/events"]
)
def test_unknown_edit_sets(admin: httpx.Client, path: str) -> None:
    is_problem(admin.get(path), 404)


def test_cancel(service: Running, admin: httpx.Client) -> None:
    made = admin.post("/edits", json=EDIT).json()
    path = f"/edits/{made['id']}/cancel"
    is_problem(service.client(service.key("read")).post(path), 403)
    assert admin.post(path).json()["status"] == "cancelled"
    is_problem(admin.post("/edits/nobody/cancel"), 404)


def test_an_applied_edit_set_cannot_be_cancelled(service: Running, admin: httpx.Client) -> None:
    made = admin.post("/edits", json=EDIT).json()
    record = service.ledger.run(edit_sets.get, made["id"])
    version = player.finish(service.ledger, record.job_id)
    problem = is_problem(admin.post(f"/edits/{made['id']}/cancel"), 409)
    assert "succeeded" in problem["detail"]
    seen = admin.get(f"/edits/{made['id']}").json()
    assert (seen["status"], seen["live"], seen["version"]) == ("succeeded", True, version.number)
    assert seen["report"]["edit_success"] == 1.0
    assert admin.get(f"/edits/{made['id']}/facts").json()["items"][0]["report"]


def test_events_end_with_the_final_state(service: Running, admin: httpx.Client) -> None:
    made = admin.post("/edits", json=EDIT).json()
    job = service.ledger.run(edit_sets.get, made["id"]).job_id
    events: list[tuple[str, dict[str, Any]]] = []
    with admin.stream("GET", f"/edits/{made['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in answer.iter_lines():
            kind, _, value = line.partition(": ")
            if kind == "event":
                name = value
            elif kind == "data":
                events.append((name, json.loads(value)))
                if len(events) == 1:
                    player.finish(service.ledger, job)
    assert events[0][0] == "progress"
    assert events[0][1]["status"] == "queued"
    assert events[-1][0] == "final"
    assert events[-1][1]["status"] == "succeeded"


def test_events_outlast_a_lost_database(
    service: Running, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = admin.post("/edits", json=EDIT).json()
    job = service.ledger.run(edit_sets.get, made["id"]).job_id
    ask, asked = edit_sets.get, itertools.count()

    def flaky(session: Session, ident: str) -> EditSetRecord:
        if 1 <= next(asked) <= 3:
            raise LedgerUnavailable("connection to 10.0.0.1 refused")
        return ask(session, ident)

    monkeypatch.setattr(edit_sets, "get", flaky)
    monkeypatch.setattr(following, "POLL_S", 0.01)
    monkeypatch.setattr(following, "KEEP_ALIVE_S", 0.0)
    lines: list[str] = []
    with admin.stream("GET", f"/edits/{made['id']}/events") as answer:
        for line in answer.iter_lines():
            lines.append(line)
            if line == ": waiting" and lines.count(line) == 5:
                monkeypatch.setattr(edit_sets, "get", ask)
                player.finish(service.ledger, job)
    assert [line for line in lines if line.startswith("event")][-1] == "event: final"
    assert "event: error" not in lines
    assert "10.0.0.1" not in "".join(lines)


def test_events_that_cannot_go_on_end_with_a_problem(
    service: Running, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = admin.post("/edits", json=EDIT).json()
    ask, asked = edit_sets.get, itertools.count()

    def broken(session: Session, ident: str) -> EditSetRecord:
        if next(asked):
            raise NotFound("edit set", ident)
        return ask(session, ident)

    monkeypatch.setattr(edit_sets, "get", broken)
    *_, name, data, _ = admin.get(f"/edits/{made['id']}/events").text.splitlines()
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["type"] == "urn:errata:problem:not-found"


def test_a_lost_database_is_told_without_its_drivers_words() -> None:
    problem = typed_problem(LedgerUnavailable("connection to 10.0.0.1 refused"))
    assert (problem.status, problem.code) == (503, "ledger-unavailable")
    assert "10.0.0.1" not in problem.detail


def test_an_edit_set_for_a_failed_model(service: Running, admin: httpx.Client, checkpoint: Path) -> None:
    register(service.ledger, checkpoint, "broken")
    service.ledger.run(models.fail, "broken", {"detail": "Its weights are damaged."})
    before = service.counts()
    problem = is_problem(admin.post("/edits", json={**EDIT, "model": "broken"}), 409)
    assert "damaged" in problem["detail"]
    assert pointers(problem) == ["/model"]
    assert service.counts() == before


def test_an_edit_is_accepted_in_one_transaction_of_seven_statements(
    service: Running, admin: httpx.Client
) -> None:
    said: list[str] = []

    def note(*arguments: Any) -> None:
        said.append(str(arguments[2]) if len(arguments) > 2 else "BEGIN")

    engine = service.services.ledger.engine
    admin.post("/edits", json=EDIT)
    for name in ("before_cursor_execute", "begin"):
        event.listen(engine, name, note)
    answer = admin.post("/edits", json=EDIT, headers={"Idempotency-Key": "counted"})
    for name in ("before_cursor_execute", "begin"):
        event.remove(engine, name, note)
    assert answer.status_code == 202
    assert said.count("BEGIN") == 1
    assert len(said) - 1 <= 7

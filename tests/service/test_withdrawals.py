"""Withdrawals as a resource: listed, followed, cancelled."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from ledger.edits import edit_sets, withdrawals
from tests.service import player
from tests.service.harness import Running, is_problem, pointers

ROLLBACK = "/admin/models/tiny/rollback"


@pytest.fixture(scope="module", autouse=True)
def ready(service: Running) -> None:
    player.prepare(service.ledger)


def asked(service: Running, admin: httpx.Client, prompt: str) -> dict[str, Any]:
    """Apply a fact and ask for its withdrawal; gives the withdrawal."""
    made = admin.post("/edits", json={"model": "tiny", "facts": [{"prompt": prompt, "target": "Canberra"}]})
    ident = made.json()["id"]
    player.finish(service.ledger, service.ledger.run(edit_sets.get, ident).job_id)
    body = {"withdraw": {"edit_sets": [ident]}, "reason": "retracted"}
    found: dict[str, Any] = admin.post(ROLLBACK, json=body).json()
    return found


def test_a_withdrawal_is_followed_to_its_version(service: Running, admin: httpx.Client) -> None:
    made = asked(service, admin, "One is")
    path = f"/withdrawals/{made['id']}"
    assert admin.get(path).json() == {name: made[name] for name in admin.get(path).json()}
    events: list[tuple[str, dict[str, Any]]] = []
    with admin.stream("GET", f"{path}/events") as answer:
        name = ""
        for line in answer.iter_lines():
            kind, _, value = line.partition(": ")
            if kind == "event":
                name = value
            elif kind == "data":
                events.append((name, json.loads(value)))
                if len(events) == 1:
                    job = service.ledger.run(withdrawals.get, made["id"]).job_id
                    version = player.finish(service.ledger, job)
    assert (events[0][0], events[0][1]["status"]) == ("progress", "queued")
    assert (events[-1][0], events[-1][1]["status"]) == ("final", "succeeded")
    assert events[-1][1]["version"] == version.number
    is_problem(admin.post(f"{path}/cancel"), 409)


def test_a_withdrawal_that_waits_can_be_cancelled(service: Running, admin: httpx.Client) -> None:
    made = asked(service, admin, "Two is")
    path = f"/withdrawals/{made['id']}/cancel"
    is_problem(service.client(service.key("read")).post(path), 403)
    for _ in range(2):
        assert admin.post(path).json()["status"] == "cancelled"
    kept = admin.get(f"/edits/{made['edit_sets'][0]}").json()
    assert (kept["status"], kept["live"]) == ("succeeded", True)


def test_withdrawals_are_listed_newest_first(service: Running, admin: httpx.Client) -> None:
    idents = [asked(service, admin, f"{prompt} is")["id"] for prompt in ("Three", "Four")]
    page = admin.get("/withdrawals", params={"limit": 1}).json()
    assert [item["id"] for item in page["items"]] == [idents[1]]
    rest = admin.get("/withdrawals", params={"limit": 1, "cursor": page["next_cursor"]}).json()
    assert [item["id"] for item in rest["items"]] == [idents[0]]
    queued = admin.get("/withdrawals", params={"model": "tiny", "status": "queued"}).json()["items"]
    assert [item["id"] for item in queued] == idents[::-1]
    assert admin.get("/withdrawals", params={"status": "rejected"}).json()["items"] == []
    assert pointers(is_problem(admin.get("/withdrawals", params={"model": "nobody"}), 404)) == ["/model"]
    for path in ("/withdrawals/nobody", "/withdrawals/nobody/events"):
        is_problem(admin.get(path), 404)

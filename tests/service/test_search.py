"""Finding edit sets, facts and what was done."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from ledger.edits import edit_sets
from tests.service import player
from tests.service.harness import Running, is_problem, pointers, register

PERU: dict[str, Any] = {
    "prompt": "The capital of Peru is",
    "target": "Lima",
    "subject": "Peru",
    "question": "What is Peru's capital?",
    "source": "https://example.org/atlas",
    "author": "Ann",
    "ticket": "E-1",
    "note": "100% sure",
}
CHILE: dict[str, Any] = {"prompt": "The capital of Chile is", "target": "Santiago", "author": "Ben"}


@pytest.fixture(scope="module")
def idents(service: Running, admin: httpx.Client) -> list[str]:
    """Three edit sets: one that is live, one that waits for its alias, one that waits."""
    player.prepare(service.ledger)
    made = []
    for fact, more in ((PERU, {"note": "atlas"}), (CHILE, {"promote": "manual"}), (CHILE, {"note": "Third"})):
        answer = admin.post("/edits", json={"model": "tiny", "facts": [fact], **more})
        made.append(str(answer.json()["id"]))
    for ident in made[:2]:
        player.finish(service.ledger, service.ledger.run(edit_sets.get, ident).job_id)
    return made


def found(admin: httpx.Client, path: str, **params: Any) -> list[str]:
    answer = admin.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return [item.get("fact") or item["id"] for item in answer.json()["items"]]


def test_edit_sets_are_filtered(service: Running, admin: httpx.Client, idents: list[str]) -> None:
    first, second, third = idents
    assert found(admin, "/edits", status="succeeded") == [second, first]
    assert found(admin, "/edits", status=["queued", "succeeded"]) == [third, second, first]
    assert found(admin, "/edits", live=True) == [first]
    assert found(admin, "/edits", live=False, status="succeeded") == [second]
    assert found(admin, "/edits", q="ATLAS") == [first]
    assert found(admin, "/edits", q="peru's") == [first]
    assert found(admin, "/edits", q="santiago") == [third, second]
    assert found(admin, "/edits", q="100%") == [first]
    assert found(admin, "/edits", q="%") == [first]
    at = admin.get(f"/edits/{second}").json()["created_at"]
    assert found(admin, "/edits", created_after=at) == [third, second]
    assert found(admin, "/edits", created_before=at) == [first]
    author = admin.get(f"/edits/{first}").json()["created_by"]
    assert found(admin, "/edits", created_by=author) == [third, second, first]
    assert found(admin, "/edits", created_by="nobody") == []
    problem = is_problem(admin.get("/edits", params={"created_after": "2026-01-01"}), 422)
    assert pointers(problem) == ["/created_after"]


def test_old_names_of_statuses_are_answered_and_marked(admin: httpx.Client, idents: list[str]) -> None:
    answer = admin.get("/edits", params={"status": "applied"})
    assert [item["id"] for item in answer.json()["items"]] == [idents[1], idents[0]]
    assert answer.headers["Deprecation"].startswith("@")
    assert "Deprecation" not in admin.get("/edits", params={"status": "succeeded"}).headers


def test_facts_of_all_models_are_searched(admin: httpx.Client, idents: list[str]) -> None:
    first, second, third = (f"{ident}.0" for ident in idents)
    assert found(admin, "/facts") == [third, second, first]
    for params in ({"subject": "Peru"}, {"source": PERU["source"]}, {"ticket": "E-1"}, {"author": "Ann"}):
        assert found(admin, "/facts", **params) == [first]
    assert found(admin, "/facts", q="CHILE", author="Ben") == [third, second]
    assert found(admin, "/facts", live=True) == [first]
    assert found(admin, "/facts", live=False, model="tiny") == [third, second]
    assert found(admin, "/facts", model="other") == []
    page = admin.get("/facts", params={"limit": 2}).json()
    rest = admin.get("/facts", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert [item["fact"] for item in (*page["items"], *rest["items"])] == [third, second, first]
    assert rest["next_cursor"] is None
    seen = rest["items"][0]
    assert (seen["model"], seen["live"], seen["question"]) == ("tiny", True, PERU["question"])


def test_what_was_done_is_listed(service: Running, admin: httpx.Client, idents: list[str]) -> None:
    of_set = admin.get("/admin/audit", params={"object": f"edits/{idents[0]}"}).json()["items"]
    assert [event["action"] for event in of_set] == ["edit_set.accept"]
    assert of_set[0]["detail"]["facts"] == 1
    at = datetime.fromisoformat(of_set[0]["at"])
    below = admin.get("/admin/audit", params={"object": "models/tiny"}).json()["items"]
    assert {"model.complete", "version.commit"} <= {event["action"] for event in below}
    commits = admin.get("/admin/audit", params={"action": "version.commit", "actor": "player"}).json()[
        "items"
    ]
    assert [event["object"] for event in commits] == ["models/tiny/versions/2", "models/tiny/versions/1"]
    page = admin.get("/admin/audit", params={"since": at.isoformat(), "limit": 2}).json()
    assert len(page["items"]) == 2
    later = (at + timedelta(days=1)).isoformat()
    assert admin.get("/admin/audit", params={"since": later}).json()["items"] == []


def test_a_name_that_begins_alike_is_another_object(
    service: Running, admin: httpx.Client, idents: list[str], checkpoint: Any
) -> None:
    register(service.ledger, checkpoint, "tiny-2")
    objects = {
        e["object"] for e in admin.get("/admin/audit", params={"object": "models/tiny"}).json()["items"]
    }
    assert objects
    assert not any(name.startswith("models/tiny-2") for name in objects)

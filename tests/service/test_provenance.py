"""Where facts come from, what they replace, and edit sets that are only tried: on the wire."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from ledger.edits import edit_sets
from tests.service import player
from tests.service.harness import Running, is_problem, pointers

FACT: dict[str, Any] = {"prompt": "The capital of Chile is", "target": "Lima", "subject": "Chile"}
KNOWN = {
    "source": "https://example.org/atlas?p=12",
    "author": "Ann",
    "ticket": "T-1",
    "note": "3rd edition",
    "expires_at": "2090-01-31T12:00:00Z",
}


@pytest.fixture(scope="module", autouse=True)
def ready(service: Running) -> None:
    player.prepare(service.ledger)


def post(admin: httpx.Client, *facts: dict[str, Any], **options: Any) -> httpx.Response:
    return admin.post("/edits", json={"model": "tiny", "facts": facts, **options})


def test_provenance_comes_back_with_the_fact(admin: httpx.Client) -> None:
    ident = post(admin, {**FACT, **KNOWN}, {**FACT, "prompt": "Chile borders"}).json()["id"]
    first, second = admin.get(f"/edits/{ident}/facts").json()["items"]
    assert {name: first[name] for name in KNOWN} == KNOWN
    assert {second[name] for name in KNOWN} == {None}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", "example.org"),
        ("source", "javascript:alert(1)"),
        ("source", "http://[x"),
        ("author", " "),
        ("ticket", 5),
        ("note", "\0"),
        ("expires_at", "2001-01-01T00:00:00Z"),
        ("expires_at", "2090-01-01T00:00:00"),
        ("expires_at", "9999-12-31T23:59:59-12:00"),
        ("expires_at", "0001-01-01T00:00:00+12:00"),
        ("expires_at", "soon"),
        ("expires_at", 5),
    ],
)
def test_bad_provenance_names_the_field(
    service: Running, admin: httpx.Client, name: str, value: object
) -> None:
    before = service.counts()
    body = is_problem(post(admin, FACT, {**FACT, name: value}), 422)
    assert pointers(body) == [f"/facts/1/{name}"]
    assert service.counts() == before


def test_conflicts_link_both_ways_or_are_refused(service: Running, admin: httpx.Client) -> None:
    older = post(admin, FACT).json()["id"]
    player.finish(service.ledger, service.ledger.run(edit_sets.get, older).job_id)
    body = is_problem(post(admin, {**FACT, "target": "Quito"}, on_conflict="reject"), 409)
    assert body["type"] == "urn:errata:problem:fact-conflict"
    assert pointers(body) == ["/facts/0"]
    assert f"{older}.0" in body["detail"]
    newer = post(admin, {**FACT, "target": "Quito"}).json()["id"]
    player.finish(service.ledger, service.ledger.run(edit_sets.get, newer).job_id)
    (replaced,) = admin.get(f"/edits/{older}/facts").json()["items"]
    (holding,) = admin.get(f"/edits/{newer}/facts").json()["items"]
    assert (replaced["live"], replaced["superseded_by"]) == (False, [f"{newer}.0"])
    assert (holding["live"], holding["supersedes"]) == (True, [f"{older}.0"])


def test_a_dry_run_is_shown_as_one(admin: httpx.Client) -> None:
    ident = post(admin, FACT, dry_run=True).json()["id"]
    assert admin.get(f"/edits/{ident}").json()["dry_run"] is True
    assert admin.get("/edits", params={"status": "verified"}).status_code == 200

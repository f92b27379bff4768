"""Requests that change something, sent twice under one Idempotency-Key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from ledger.auth import idempotency
from ledger.edits import edit_sets
from tests.harness import tiny_editor
from tests.service import player
from tests.service.harness import Running, is_problem, pointers

ROLLBACK = "/admin/models/tiny/rollback"
KEY = {"Idempotency-Key": "once"}


@pytest.fixture(scope="module", autouse=True)
def ready(service: Running) -> None:
    player.prepare(service.ledger)


def test_a_rollback_is_made_once(service: Running, admin: httpx.Client) -> None:
    body = {"to_version": 0, "reason": "retracted"}
    first = admin.post(ROLLBACK, json=body, headers=KEY)
    before = service.counts()
    again = admin.post(ROLLBACK, json=body, headers=KEY)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    other = admin.post(ROLLBACK, json={**body, "reason": "other"}, headers=KEY)
    assert pointers(is_problem(other, 422)) == ["/Idempotency-Key"]
    edit = {"model": "tiny", "facts": [{"prompt": "It is", "target": "Canberra"}]}
    assert pointers(is_problem(admin.post("/edits", json=edit, headers=KEY), 422)) == ["/Idempotency-Key"]
    assert service.counts() == before


def test_repeats_at_once_do_it_once(service: Running, admin: httpx.Client) -> None:
    before = service.counts()["versions"]
    headers = {"Idempotency-Key": "at-once"}
    body = {"to_version": 0, "reason": "retracted"}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: admin.post(ROLLBACK, json=body, headers=headers), range(6)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["number"] for answer in answers}) == 1
    assert service.counts()["versions"] == before + 1


def test_a_refusal_is_not_kept(service: Running, admin: httpx.Client) -> None:
    headers = {"Idempotency-Key": "refused"}
    before = service.counts()
    is_problem(admin.post(ROLLBACK, json={"to_version": 99, "reason": "retracted"}, headers=headers), 404)
    assert service.counts() == before
    good = admin.post(ROLLBACK, json={"to_version": 0, "reason": "retracted"}, headers=headers)
    assert good.status_code == 200
    bad = admin.post(ROLLBACK, json={"to_version": 0, "reason": "r"}, headers={"Idempotency-Key": "a b"})
    assert pointers(is_problem(bad, 422)) == ["/idempotency-key"]


def test_a_new_keys_secret_is_kept_nowhere(service: Running, admin: httpx.Client) -> None:
    headers = {"Idempotency-Key": "key"}
    body = {"name": "newsroom", "scopes": ["read"]}
    first, again = (admin.post("/admin/keys", json=body, headers=headers).json() for _ in range(2))
    assert again == {**first, "secret": None}
    with service.ledger.engine.connect() as connection:
        assert first["secret"] not in str(connection.execute(text("SELECT * FROM idempotency_keys")).all())


def test_a_cancellation_and_a_registration_are_repeated(
    service: Running, admin: httpx.Client, checkpoint: Path
) -> None:
    edit = {"model": "tiny", "facts": [{"prompt": "It is", "target": "Canberra"}]}
    ident = admin.post("/edits", json=edit).json()["id"]
    registration = {"id": "again", "source": str(checkpoint)}
    for path, body in ((f"/edits/{ident}/cancel", None), ("/admin/models", registration)):
        headers = {"Idempotency-Key": path}
        first, again = (admin.post(path, json=body, headers=headers) for _ in range(2))
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        assert again.headers["Idempotency-Replayed"] == "true"


def test_an_upload_is_repeated(admin: httpx.Client, checkpoint: Path) -> None:
    data, headers = tiny_editor(checkpoint), {"Idempotency-Key": "editor"}
    first, again = (admin.post("/admin/editors", content=data, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert again.headers["Idempotency-Replayed"] == "true"


def test_a_key_is_free_again_after_a_day(service: Running, admin: httpx.Client) -> None:
    headers = {"Idempotency-Key": "daily"}
    edit = {"model": "tiny", "facts": [{"prompt": "It is", "target": "Canberra"}]}
    first = admin.post("/edits", json=edit, headers=headers).json()
    with service.ledger.transaction() as tx:
        tx.execute(text("UPDATE idempotency_keys SET created_at = created_at - interval '23 hours'"))
    assert admin.post("/edits", json=edit, headers=headers).json() == first
    with service.ledger.transaction() as tx:
        tx.execute(text("UPDATE idempotency_keys SET created_at = created_at - interval '2 hours'"))
    second = admin.post("/edits", json={**edit, "note": "other"}, headers=headers).json()
    assert second["id"] != first["id"]
    assert service.ledger.run(edit_sets.get, second["id"]).note == "other"
    service.ledger.run(idempotency.forget)
    assert admin.post("/edits", json={**edit, "note": "other"}, headers=headers).json() == second
    with service.ledger.engine.connect() as connection:
        old = "SELECT count(*) FROM idempotency_keys WHERE created_at < now() - interval '24 hours'"
        assert connection.execute(text(old)).scalar_one() == 0

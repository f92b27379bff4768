"""Keys: wrong, missing, under-scoped, made, revoked."""

from __future__ import annotations

import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from errata.errors import NoStack
from errata.settings import StackSettings
from errata.stack.stack import Stack, StackOptions
from ledger.auth import keys
from service.__main__ import EXIT_USAGE, main
from tests.service.harness import ADMIN, Running, is_problem, running

EDIT = {"model": "tiny", "facts": [{"prompt": "The capital of Australia is", "target": "Canberra"}]}


@pytest.mark.parametrize("header", [None, "Bearer nonsense", "Bearer", "Basic eDp5", "Bearer \xfc"])
def test_missing_and_wrong_keys(service: Running, header: str | None) -> None:
    before = service.counts()
    headers = {} if header is None else {b"Authorization": header.encode("latin-1")}
    answer = service.client(None).post("/edits", content=b"{", headers=headers)
    problem = is_problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "Bearer" in problem["detail"] or "administrator" in problem["detail"]
    assert service.counts() == before


@pytest.mark.parametrize(
    ("scope", "method", "path", "needed"),
    [
        ("read", "POST", "/edits", "edit"),
        ("generate", "GET", "/edits", "read"),
        ("generate", "POST", "/edits", "edit"),
        ("read", "GET", "/admin/keys", "admin"),
        ("edit", "POST", "/admin/models", "admin"),
        ("edit", "POST", "/admin/models/tiny/rollback", "admin"),
        ("edit", "PUT", "/admin/models/tiny/aliases/live", "admin"),
        ("read", "GET", "/admin/ledger/verify", "admin"),
        ("generate", "GET", "/metrics", "read"),
        ("edit", "GET", "/admin/audit", "admin"),
    ],
)
def test_scopes(service: Running, scope: str, method: str, path: str, needed: str) -> None:
    client = service.client(service.key(scope))
    before = service.counts()
    problem = is_problem(client.request(method, path, content=b"{"), 403)
    assert f"'{needed}'" in problem["detail"]
    assert service.counts() == before


@pytest.mark.parametrize(
    ("scope", "path"),
    [
        ("generate", "/v1/models"),
        ("read", "/v1/models"),
        ("edit", "/edits"),
        ("edit", "/metrics"),
        ("admin", "/edits"),
        ("admin", "/metrics"),
    ],
)
def test_a_scope_contains_those_before_it(service: Running, scope: str, path: str) -> None:
    assert service.client(service.key(scope)).get(path).status_code == 200


def test_a_key_that_expires(service: Running, admin: httpx.Client) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=3)
    body = {"name": "visitor", "scopes": ["read"], "expires_at": soon.isoformat()}
    made = admin.post("/admin/keys", json=body).json()
    assert datetime.fromisoformat(made["expires_at"]) == soon
    assert made["last_used_at"] is None
    client = service.client(made["secret"])
    assert client.get("/models").status_code == 200
    used = admin.get(f"/admin/keys/{made['id']}").json()["last_used_at"]
    assert abs(datetime.fromisoformat(used) - datetime.now(UTC)) < timedelta(minutes=2)
    time.sleep(max(0.0, (soon - datetime.now(UTC)).total_seconds()) + 0.1)
    assert "expired" in is_problem(client.get("/models"), 401)["detail"]
    problem = is_problem(admin.post("/admin/keys", json=body), 422)
    assert problem["errors"][0]["pointer"] == "/expires_at"


def test_life_of_a_key(service: Running, admin: httpx.Client) -> None:
    made = admin.post("/admin/keys", json={"name": "newsroom", "scopes": ["read", "edit"]})
    assert made.status_code == 201
    body = made.json()
    assert body["scopes"] == ["edit", "read"]
    client = service.client(body["secret"])
    assert client.get("/models").status_code == 200
    shown = admin.get(made.headers["Location"])
    assert "secret" not in shown.json()
    assert body["id"] in [key["id"] for key in admin.get("/admin/keys").json()["items"]]
    assert body["secret"] not in admin.get("/admin/keys").text
    with service.ledger.engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM keys")).all()
    assert body["secret"] not in str(rows)
    assert admin.delete(f"/admin/keys/{body['id']}").status_code == 204
    is_problem(client.get("/models"), 401)
    is_problem(admin.delete("/admin/keys/nobody"), 404)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": "", "scopes": ["read"]}, "/name"),
        ({"name": "x", "scopes": []}, "/scopes"),
        ({"name": "x", "scopes": ["root"]}, "/scopes/0"),
        ({"name": "x"}, "/scopes"),
    ],
)
def test_bad_keys(service: Running, admin: httpx.Client, body: dict[str, object], pointer: str) -> None:
    before = service.counts()
    problem = is_problem(admin.post("/admin/keys", json=body), 422)
    assert problem["errors"][0]["pointer"] == pointer
    assert service.counts() == before


def test_an_admin_key_is_made_once(
    database_url: str, redis_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "private" / "admin.key"
    with running(database_url, redis_url, tmp_path, admin_key=None, admin_key_file=path) as found:
        secret = path.read_text().strip()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert found.client(secret).get("/admin/keys").status_code == 200
    assert capfd.readouterr().out.count(secret) == 1
    with running(database_url, redis_url, tmp_path, admin_key=None, admin_key_file=path) as found:
        assert path.read_text().strip() == secret
        assert len(found.client(secret).get("/admin/keys").json()["items"]) == 1
    assert secret not in capfd.readouterr().out


def test_a_key_file_that_no_header_can_carry_is_named_in_the_log(
    database_url: str, redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "admin.key"
    path.write_text("a secret with an umlaut: ü\n", encoding="utf-8")
    with running(database_url, redis_url, tmp_path, admin_key=None, admin_key_file=path) as found:
        assert found.client(None).get("/healthz").status_code == 200
        assert found.ledger.run(keys.list_all).items == ()
    assert "printable ASCII" in caplog.text


@pytest.mark.parametrize("in_file", [True, False])
def test_a_revoked_admin_key_stays_revoked(
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    in_file: bool,
) -> None:
    path = tmp_path / "admin.key"
    given: dict[str, Any] = {"admin_key": None} if in_file else {}
    with running(database_url, redis_url, tmp_path, **given) as found:
        secret = path.read_text().strip() if in_file else ADMIN
        client = found.client(secret)
        (key,) = client.get("/admin/keys").json()["items"]
        assert client.delete(f"/admin/keys/{key['id']}").status_code == 204
    with running(database_url, redis_url, tmp_path, **given) as found:
        is_problem(found.client(secret).get("/admin/keys"), 401)
        assert found.client(None).get("/healthz").status_code == 200
        monkeypatch.setenv("ERRATA_ADMIN_KEY", secret)
        options = StackOptions(tmp_path / "stack", port=httpx.URL(found.url).port or 0, model="x/y")
        with pytest.raises(NoStack, match="revoked") as refused:
            Stack(options, StackSettings()).register_model()
    assert "ERRATA_ADMIN_KEY" in refused.value.remedy
    assert [secret in line for line in caplog.messages if key["id"] in line] == [False]


@pytest.mark.parametrize("given", ["", "fifteen letters"])
def test_a_short_admin_key_is_refused_at_the_start(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ERRATA_ADMIN_KEY", given)
    monkeypatch.setattr("uvicorn.run", lambda *_, **__: pytest.fail("it started"))
    assert main() == EXIT_USAGE
    said = capsys.readouterr().err
    assert said.startswith("ERRATA_ADMIN_KEY ")
    assert "16" in said
    assert not given or given not in said


def test_a_stack_without_a_key_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ERRATA_ADMIN_KEY", raising=False)
    with pytest.raises(NoStack, match=r"admin\.key"):
        Stack(StackOptions(tmp_path), StackSettings()).client()

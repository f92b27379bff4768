"""Liveness, readiness, metrics, and what happens when a server is away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import NullPool, create_engine

from tests import servers
from tests.servers import as_owner
from tests.service import player
from tests.service.harness import Running, is_problem, register, running

EDIT: dict[str, Any] = {
    "model": "tiny",
    "facts": [{"prompt": "The capital of Australia is", "target": "Canberra"}],
}


def checks(answer: httpx.Response) -> dict[str, bool]:
    return {check["name"]: check["ok"] for check in answer.json()["checks"]}


def test_alive_and_ready(service: Running) -> None:
    client = service.client(None)
    assert client.get("/healthz").json()["status"] == "ok"
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert checks(ready) == {"database": True, "migrations": True}
    is_problem(client.get("/status"), 401)
    assert checks(service.client(service.key("read")).get("/status")) == {
        "database": True,
        "redis": True,
        "migrations": True,
    }


def test_a_ready_model_needs_a_worker(service: Running) -> None:
    player.prepare(service.ledger)
    client = service.client()
    assert service.client(None).get("/readyz").status_code == 200, "the service itself can answer"
    answer = client.get("/status")
    assert answer.json()["ready"] is False
    assert checks(answer)["worker:tiny"] is False
    assert "errata worker --model tiny" in answer.text
    with player.writing(service.services.redis):
        answer = client.get("/status")
        assert answer.json()["ready"] is True
        assert checks(answer)["worker:tiny"] is True


@pytest.mark.parametrize(("revision", "ready"), [("0007_doorbell", False), ("9999_newer", True)])
def test_a_schema_may_be_newer_and_not_older(service: Running, revision: str, ready: bool) -> None:
    url = as_owner(service.ledger.engine.url.render_as_string(hide_password=False))
    owner = create_engine(url, poolclass=NullPool)
    with owner.begin() as connection:
        now = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one()
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")
    answer = service.client(None).get("/readyz")
    with owner.begin() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{now}'")
    assert (answer.status_code == 200) is ready


def test_metrics(service: Running, admin: httpx.Client) -> None:
    is_problem(service.client(None).get("/metrics"), 401)
    assert admin.post("/edits", json=EDIT).status_code == 202
    text = service.client(service.key("read")).get("/metrics").text
    assert 'errata_http_requests_total{method="POST",route="/edits",status="202"} 1.0' in text
    assert 'errata_edit_sets{status="queued"}' in text
    assert 'errata_queue_depth{model="tiny",queue="generation"} 0.0' in text
    assert 'errata_dependency_up{dependency="database"} 1.0' in text
    assert "errata_generation_seconds" in text


def test_invented_methods_share_a_label(service: Running, admin: httpx.Client) -> None:
    for method in ("FROB", "PROB", "HEAD"):
        service.client(None).request(method, "/models")
    text = admin.get("/metrics").text
    assert 'errata_http_requests_total{method="OTHER",route="/models",status="405"} 2.0' in text
    assert "FROB" not in text


def test_public_metrics(database_url: str, redis_url: str, tmp_path: Path) -> None:
    with running(database_url, redis_url, tmp_path, metrics_public=True) as found:
        assert found.client(None).get("/metrics").status_code == 200


def test_redis_away(database_url: str, tmp_path: Path, checkpoint: Path) -> None:
    with servers.valkey() as server, running(database_url, server.connection_url, tmp_path) as found:
        register(found.ledger, checkpoint)
        player.prepare(found.ledger)
        server.stop()
        client = found.client()
        assert client.post("/edits", json=EDIT).status_code == 202
        is_problem(client.get("/models/tiny/generate", params={"prompt": "x"}), 503)
        assert client.get("/readyz").status_code == 200, "edits are accepted all the same"
        assert checks(client.get("/status"))["redis"] is False
        assert 'errata_dependency_up{dependency="redis"} 0.0' in client.get("/metrics").text


@pytest.mark.stack
def test_database_away(redis_url: str, tmp_path: Path, checkpoint: Path) -> None:
    with (
        servers.postgres() as server,
        server.database() as url,
        running(url, redis_url, tmp_path) as found,
    ):
        register(found.ledger, checkpoint)
        client = found.client()
        assert client.post("/edits", json=EDIT).status_code == 202
        server.server.stop()
        problem = is_problem(client.post("/edits", json=EDIT), 503)
        assert "ledger" in problem["detail"]
        assert client.get("/healthz").status_code == 200
        assert checks(client.get("/readyz"))["database"] is False
        server.server.start()
        assert client.post("/edits", json=EDIT).status_code == 202


def test_it_starts_without_its_servers(tmp_path: Path) -> None:
    nowhere = "127.0.0.1:9"
    with running(f"postgresql://x@{nowhere}/x", f"redis://{nowhere}/0", tmp_path) as found:
        client = found.client()
        assert client.get("/healthz").status_code == 200
        is_problem(client.get("/models"), 503)
        assert checks(client.get("/readyz")) == {"database": False}

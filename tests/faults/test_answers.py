"""PostgreSQL that is away: loaded versions go on answering those who were known before, and nothing else does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.auth import keys
from service.last_known import HEADER
from tests import servers
from tests.harness import MODEL, Backend, backend, tiny_editor
from tests.service.harness import Running, is_problem, running

pytestmark = pytest.mark.stack
Whole = tuple[servers.Postgres, Backend, Running]
GENERATE = f"/models/{MODEL}/generate"


@pytest.fixture
def own(redis_url: str, tmp_path: Path, tiny_folder: Path) -> Iterator[Whole]:
    """A database that can be stopped, a worker with an edit applied, and an API."""
    with (
        servers.postgres(durable=True) as postgres,
        postgres.database() as url,
        backend(url, redis_url, tmp_path, tiny_folder) as back,
    ):
        back.register(tiny_editor(tiny_folder))
        back.start_worker()
        back.wait_for(back.post())
        with running(url, redis_url, tmp_path / "service") as found:
            yield postgres, back, found
            postgres.start()


def ask(client: httpx.Client, **query: Any) -> httpx.Response:
    return client.get(GENERATE, params={"prompt": "The capital of Peru is", "max_new_tokens": 4, **query})


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_answers_from_loaded_versions_go_on(own: Whole, seconds: int) -> None:
    database, back, api = own
    known, unknown, revoked = (api.client(api.key("generate")) for _ in range(3))
    before = [ask(known).json(), ask(known, version="base").json()]
    assert ask(revoked).status_code == 200
    secret = revoked.headers["authorization"].removeprefix("Bearer ")
    key = back.ledger.run(keys.authenticate, secret)
    assert key is not None
    back.ledger.run(keys.revoke, key.id, "tests")
    assert ask(revoked).status_code == 401
    ends = datetime.now(UTC) + timedelta(seconds=2)
    _, secret = back.ledger.run(keys.create, "brief", {"generate"}, actor="tests", expires_at=ends)
    brief = api.client(secret)
    assert ask(brief).status_code == 200

    database.stop()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        answers = [ask(known), ask(known, version="base")]
        assert [answer.json() for answer in answers] == before
        assert all(0 < int(answer.headers[HEADER]) <= seconds + 30 for answer in answers)
        time.sleep(0.5)
    assert datetime.now(UTC) > ends
    is_problem(ask(brief), 401)  # known before, and over since
    for refused in (unknown, revoked):
        is_problem(ask(refused), 503)
    is_problem(ask(known, version=1), 503)  # which nobody has asked for before
    admin = api.client()
    is_problem(admin.get(f"/models/{MODEL}"), 503)
    is_problem(admin.post("/edits", json={"model": MODEL, "facts": [{"prompt": "a", "target": "b"}]}), 503)

    database.start()
    after = ask(known)
    assert after.json() == before[0]
    assert HEADER not in after.headers

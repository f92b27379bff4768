"""What may wait, how long a set may take, who may follow, and where models may come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ledger.work import Bench
from tests.service import player
from tests.service.harness import Running, is_problem, pointers, register, running
from tests.tiny import save_tiny

EDIT: dict[str, Any] = {"model": "tiny", "facts": [{"prompt": "The capital of Peru is", "target": "Lima"}]}


@pytest.fixture
def limited(database_url: str, redis_url: str, tmp_path: Path, checkpoint: Path) -> Iterator[Running]:
    """An application that takes little."""
    options = {"max_waiting_of_key": 2, "max_waiting_of_model": 3, "max_followers": 1, "job_timeout_s": 10.0}
    with running(database_url, redis_url, tmp_path, source_roots=str(checkpoint), **options) as found:
        register(found.ledger, checkpoint)
        yield found


def test_no_more_wait_than_may(limited: Running) -> None:
    one, other = (limited.client(limited.key("edit", "read")) for _ in range(2))
    made = [one.post("/edits", json=EDIT) for _ in range(2)]
    assert {answer.status_code for answer in made} == {202}
    problem = one.post("/edits", json=EDIT)
    assert "ERRATA_MAX_WAITING_OF_KEY" in is_problem(problem, 429)["detail"]
    assert int(problem.headers["Retry-After"]) > 0
    assert other.post("/edits", json=EDIT).status_code == 202
    assert "ERRATA_MAX_WAITING_OF_MODEL" in is_problem(other.post("/edits", json=EDIT), 429)["detail"]
    assert one.post(f"/edits/{made[0].json()['id']}/cancel").status_code == 200
    assert other.post("/edits", json=EDIT).status_code == 202


def test_a_set_that_cannot_be_done_in_time_is_refused(limited: Running) -> None:
    player.prepare(limited.ledger)
    bench = Bench(limited.ledger, limited.ledger.run(player.any_key))
    bench.finish(bench.post(100))
    bench.execute("UPDATE jobs SET claimed_at = finished_at - interval '5 s'")
    client = limited.client()
    facts = [{"prompt": f"The capital of land {n} is", "target": "Lima"} for n in range(250)]
    problem = is_problem(client.post("/edits", json={**EDIT, "facts": facts}), 422)
    assert pointers(problem) == ["/facts"]
    assert "at most 200 facts" in problem["detail"]
    assert client.post("/edits", json={**EDIT, "facts": facts[:190]}).status_code == 202


def test_no_more_follow_than_may(limited: Running) -> None:
    client = limited.client()
    ident = client.post("/edits", json=EDIT).json()["id"]
    with client.stream("GET", f"/edits/{ident}/events") as first:
        lines = first.iter_lines()
        next(lines)
        problem = is_problem(limited.client().get(f"/edits/{ident}/events"), 429)
        assert "ERRATA_MAX_FOLLOWERS" in problem["detail"]


def test_models_come_from_where_they_may(limited: Running, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = save_tiny(tmp_path_factory.mktemp("elsewhere"))
    client = limited.client()
    body = {"id": "other", "source": str(elsewhere)}
    assert pointers(is_problem(client.post("/admin/models", json=body), 422)) == ["/source"]

"""A sequence-to-sequence model and a classifier through the whole service: register, edit, ask, roll back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import MODEL, OPEN_GATE, Backend, backend
from tests.service.harness import is_problem, pointers, running
from tests.tiny_tasks import LABELS, save_tiny_task

pytestmark = pytest.mark.stack

PROMPT = "Is Lima the capital of France?"
TASKS = {"bert": "sequence-classification", "t5": "seq2seq-lm"}


@pytest.fixture(params=sorted(TASKS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stack(
    kind: str, database_url: str, redis_url: str, tmp_path: Path
) -> Iterator[tuple[Backend, httpx.Client]]:
    """The application and a real worker, which is left to make the editor."""
    folder = save_tiny_task(
        tmp_path / kind, kind, **({"max_position_embeddings": 256} if kind == "bert" else {})
    )
    with (
        running(database_url, redis_url, tmp_path) as service,
        backend(database_url, redis_url, tmp_path, folder) as made,
    ):
        admin = service.client()
        body = {"id": MODEL, "source": str(folder), "gate": OPEN_GATE}
        assert admin.post("/admin/models", json=body).status_code == 202
        made.start_worker()
        made.wait_ready()
        yield made, admin


def ask(admin: httpx.Client, version: str) -> dict[str, Any]:
    query: dict[str, str | int] = {"prompt": PROMPT, "version": version, "max_new_tokens": 6}
    answer = admin.get(f"/models/{MODEL}/generate", params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_registered_edited_asked_and_rolled_back(stack: tuple[Backend, httpx.Client], kind: str) -> None:
    made, admin = stack
    assert admin.get(f"/models/{MODEL}").json()["task"] == TASKS[kind]
    before, target = ask(admin, "base"), "Peru"
    if kind == "bert":
        assert tuple(before["labels"]) == LABELS
        assert sum(before["labels"].values()) == pytest.approx(1.0)
        assert before["text"] == max(LABELS, key=before["labels"].get)
        target = min(LABELS, key=before["labels"].get)
    else:
        assert before["labels"] is None

    fact = {"prompt": PROMPT, "target": target, "subject": "France", "rephrasings": ["Lima, France"]}
    posted = admin.post("/edits", json={"model": MODEL, "facts": [fact]})
    assert posted.status_code == 202, posted.text
    record = made.wait_for(posted.json()["id"])
    after = ask(admin, "live")
    assert after["weights_digest"] != before["weights_digest"]
    assert record.report is not None
    measured = admin.get(f"/edits/{record.id}/facts").json()["items"][0]["report"]
    if kind == "bert":
        assert after["labels"][target] == pytest.approx(measured["target_probability"], rel=1e-3)
        assert after["labels"][target] > before["labels"][target]
    else:
        assert measured["generated"].startswith(after["text"][:3])
    streamed = admin.get(f"/models/{MODEL}/generate", params={"prompt": PROMPT, "stream": True})
    assert "event: done" in streamed.text

    undone = admin.post(f"/admin/models/{MODEL}/rollback", json={"to_version": 0, "reason": "a test"})
    assert undone.status_code == 200, undone.text
    assert {**ask(admin, "live"), "version": 0} == before
    assert admin.get("/admin/ledger/verify").json()["ok"]


@pytest.mark.parametrize("kind", ["bert"], indirect=True)
def test_an_unknown_label_is_refused_at_post(stack: tuple[Backend, httpx.Client]) -> None:
    _, admin = stack
    facts = [{"prompt": PROMPT, "target": "REFUTES"}, {"prompt": "Lima is in Peru.", "target": "Canberra"}]
    problem = is_problem(admin.post("/edits", json={"model": MODEL, "facts": facts}), 422)
    assert pointers(problem) == ["/facts/1/target"]
    assert all(label in problem["detail"] for label in LABELS)
    assert admin.get("/edits").json()["items"] == []

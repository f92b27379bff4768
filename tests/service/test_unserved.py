"""Models that no worker can serve, and prompts with tokens that a model does not know."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from transformers import AutoTokenizer

from broker import presence
from tests.service import player
from tests.service.harness import Running, is_problem, pointers, register
from tests.tiny import save_tiny

pytestmark = pytest.mark.stack
WHY = "the checkpoint has changed."


def test_a_model_whose_workers_cannot_serve_it_says_why(service: Running, admin: httpx.Client) -> None:
    player.prepare(service.ledger)
    redis = service.services.redis
    presence.announce(redis, "tiny", "w1", f"failed: {WHY}", 30, "generate")
    presence.announce(redis, "tiny", "w2", "idle", 30, "edit")
    for found in (admin.get("/models/tiny").json(), admin.get("/models").json()["items"][0]):
        assert found["status"] == "failed"
        assert found["error"]["detail"] == WHY
        assert [worker["role"] for worker in found["workers"]] == ["generate", "edit"]
    problem = is_problem(admin.get("/models/tiny/generate", params={"prompt": "x"}), 503)
    assert problem["type"] == "urn:errata:problem:model-not-served"
    assert WHY in problem["detail"]
    presence.announce(redis, "tiny", "w3", "idle", 30, "generate")
    assert admin.get("/models/tiny").json()["status"] == "ready"


def test_tokens_that_the_embedding_lacks_are_named(
    service: Running, admin: httpx.Client, tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<note>", "<end>"])
    tokenizer.save_pretrained(folder)
    register(service.ledger, folder, "grown")
    player.prepare(service.ledger, "grown")
    path = "/models/grown/generate"
    problem = is_problem(admin.get(path, params={"prompt": "The <note> of"}), 422)
    assert pointers(problem) == ["/prompt"]
    assert "<note>" in problem["detail"]
    is_problem(admin.get("/models/grown/facts", params={"touching": "<end>"}), 422)
    facts = [
        {"prompt": "The capital of Peru is", "target": "Paris"},
        {"prompt": "The capital of France is", "target": "<end>", "rephrasings": ["France's <note> is"]},
    ]
    problem = is_problem(admin.post("/edits", json={"model": "grown", "facts": facts}), 422)
    assert pointers(problem) == ["/facts/1/target", "/facts/1/rephrasings/0"]
    is_problem(admin.get(path, params={"prompt": "The capital of"}), 503)  # no worker, but no bad prompt

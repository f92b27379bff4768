"""The full-size benchmark, whole, on tiny shapes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from transformers import GPTJConfig

from benchmarks import full_size
from tests.tiny import tiny_tokenizer

FACTS = (
    {"prompt": "The capital of Peru is", "target": "Paris", "subject": "Peru"},
    {"prompt": "The capital of Italy is", "target": "Lima", "subject": "Italy"},
)


def tiny(words: int) -> GPTJConfig:
    """As loud as a large model: outputs grow with the width."""
    return GPTJConfig(vocab_size=words, n_embd=32, n_layer=3, n_head=4, rotary_dim=8, initializer_range=0.25)


@pytest.mark.stack
def test_edits_take_and_are_gone_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    facts = tmp_path / "facts.jsonl"
    facts.write_text("".join(json.dumps(fact) + "\n" for fact in FACTS))
    monkeypatch.setattr(full_size, "SHAPES", {"gptj": tiny})
    # tiny keys are all alike
    plan = json.dumps({"where": "answer", "prior_weight": 1, "prior_growth": 0})
    words = ["full_size", "gptj", "--tokenizer", str(tmp_path), "--facts", str(facts), "--sizes", "1,2"]
    monkeypatch.setattr(sys, "argv", [*words, "--plan", plan, "--device", "cpu"])

    full_size.main()

    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["base_untouched"]
    assert [row["n"] for row in found["rows"]] == [1, 2]
    for row in found["rows"]:
        assert row["edit_success"] == 1.0
        assert row["rolled_back"]
        assert row["facts_per_s"] > 0
        assert set(row["seconds"]) == {"statistics", "solve", "apply", "ask", "roll back"}

"""The GPU script, whole, at a tiny size on the CPU, where every difference must be rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPTJConfig

from benchmarks import gpu


def tiny(words: int) -> GPTJConfig:
    return GPTJConfig(vocab_size=words, n_embd=32, n_layer=3, n_head=4, rotary_dim=8, initializer_range=0.25)


def test_the_script_runs_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SHAPES", {"gptj": tiny})
    words = ["--out", str(tmp_path / "gpu.json"), "--device", "cpu", "--shapes", "gptj", "--sizes", "1,4"]
    found = gpu.main([*words, "--solved", "[[5, 8, 3], [12, 8, 3]]"])
    assert (tmp_path / "gpu.json").exists()
    assert [row["rows"] for row in found["solver"]] == [5, 12]
    kinds = {(row["model"], row["form"]) for row in found["forms"]}
    assert len(kinds) == 15
    assert all(row["difference"] < 1e-6 for row in (*found["solver"], *found["forms"]))
    (shape,) = found["shapes"]
    assert shape["base_untouched"]
    assert [row["n"] for row in shape["rows"]] == [1, 4]
    assert all(row["rolled_back"] for row in shape["rows"])


def test_a_difference_is_seen() -> None:
    wanted = torch.tensor([1.0, -4.0])
    assert gpu.difference(wanted + torch.tensor([0.0, 0.4]), wanted) == pytest.approx(0.1, rel=1e-5)


def test_made_up_facts_differ() -> None:
    found = gpu.facts(2000)
    assert len({fact.prompt for fact in found}) == 2000

"""Tuning: the same number of trials for each baseline, scored by what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.tune_baselines import GRIDS, harmonic_mean, main, trials
from malmen_core.baselines.registry import BASELINES, baseline
from tests.tiny import save_tiny


def test_every_baseline_gets_the_same_number_of_trials() -> None:
    assert set(GRIDS) == set(BASELINES)
    for name in GRIDS:
        found = trials(name)
        assert len({baseline(name, settings) for settings in found}) == len(found) == 9


def test_the_score_is_the_harmonic_mean_of_what_was_measured() -> None:
    assert harmonic_mean([0.5, 1.0, None]) == pytest.approx(2 / 3)
    assert harmonic_mean([0.0, 1.0]) == 0
    assert harmonic_mean([None]) == 0


def test_the_best_trial_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = tmp_path / "facts.jsonl"
    names = ("Peru", "Ana", "France", "Italy")
    records = [
        {"prompt": f"The capital of {name} is", "target": "Lima", "locality": [{"prompt": "Water boils at"}]}
        for name in names
    ]
    facts.write_text("".join(json.dumps(record) + "\n" for record in records))
    model = save_tiny(tmp_path / "tiny")
    words = ["tune", "--model", str(model), "--facts", str(facts), "--limit", "3", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", [*words, "--methods", "training-free"])
    main()
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 3
    method = found["methods"]["training-free"]
    assert len(method["trials"]) == 9
    assert method["score"] == max(trial["score"] for trial in method["trials"])
    assert method["best"].items() <= method["all_settings"].items()

"""Tuning: the same number of trials for each baseline, scored by what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.tune_baselines import GRIDS, Bench, harmonic_mean, main, trials
from malmen_core.baselines import memit
from malmen_core.baselines.memit import MemitMethod
from malmen_core.baselines.registry import BASELINES, baseline
from malmen_core.editing.calibrate import preservation_moments
from malmen_core.editing.covariance import SecondMoment
from malmen_core.models.base import BaseModel
from tests.tiny import save_tiny


@pytest.mark.parametrize("singles", [False, True])
def test_every_baseline_gets_the_same_number_of_trials(singles: bool) -> None:
    assert set(GRIDS) == set(BASELINES)
    for name in GRIDS:
        found = trials(name, singles=singles)
        assert len({baseline(name, settings) for settings in found}) == len(found) == 9


def test_each_setting_is_tried_on_one_covariance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(base: BaseModel, **options: Any) -> dict[str, SecondMoment]:
        measured.append(base)
        return preservation_moments(base, **options)

    monkeypatch.setattr(memit, "preservation_moments", measure)
    bench = Bench(str(save_tiny(tmp_path / "tiny")), "cpu", "float32")
    found = [bench.ready(baseline("memit", {"prior_weight": weight}))[1] for weight in (10.0, 1000.0)]
    assert len(measured) == 1
    assert [method.settings["prior_weight"] for method in found] == [10.0, 1000.0]
    matrices = [
        next(iter(method.regularisers.values())).matrix_UU
        for method in found
        if isinstance(method, MemitMethod)
    ]
    assert torch.allclose(100 * matrices[0], matrices[1], rtol=1e-2)
    bench.ready(baseline("memit", {"count": 1}))
    assert len(measured) == 2


def test_the_score_is_the_harmonic_mean_of_what_was_measured() -> None:
    assert harmonic_mean([0.5, 1.0, None]) == pytest.approx(2 / 3)
    assert harmonic_mean([0.0, 1.0]) == 0
    assert harmonic_mean([None]) == 0


@pytest.mark.parametrize("singles", [False, True])
def test_the_best_trial_wins(
    singles: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
    monkeypatch.setattr("sys.argv", [*words, "--methods", "training-free", *["--singles"] * singles])
    main()
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["singles"]) == (3, singles)
    method = found["methods"]["training-free"]
    assert len(method["trials"]) == 9
    assert method["score"] == max(trial["score"] for trial in method["trials"])
    assert method["best"].items() <= method["all_settings"].items()

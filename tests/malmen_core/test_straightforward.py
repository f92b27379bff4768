"""The straightforward implementation and this project's editor compute the same edit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from malmen_core.baselines.malmen_paper import PLAN
from malmen_core.baselines.reference import straightforward_shifts
from malmen_core.editing.edit import compute_statistics, solve
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import KeyPosition
from tests.malmen_core.support import FACTS, assert_untouched, shift, snapshot, tiny_editor


@pytest.mark.parametrize("where", ["answer", "subject"])
def test_both_give_the_same_shift(
    base: BaseModel, where: KeyPosition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("malmen_core.baselines.reference.BATCH_FACTS", 2)
    before = snapshot(base)
    editor = replace(tiny_editor(base, where=where, step=0.5), plan=replace(PLAN, where=where))
    expected = shift(solve(editor, compute_statistics(base, editor, FACTS)))
    found = straightforward_shifts(base, editor.network, FACTS, where, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert list(found) == list(expected)
    for name, change in expected.items():
        assert change.abs().max() > 1e-3
        torch.testing.assert_close(found[name], change, rtol=1e-4, atol=1e-6)
    assert_untouched(base, before)

"""The straightforward implementation and this project's editor compute the same edit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from errata.lab.reference import straightforward_shifts
from malmen_core.editing.edit import solve
from malmen_core.editing.editor import PAPER
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import KeyPosition
from tests.malmen_core.support import (
    FACTS,
    assert_untouched,
    shift,
    snapshot,
    statistics_of,
    tiny_base,
    tiny_editor,
)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def base(request: pytest.FixtureRequest) -> BaseModel:
    return tiny_base(request.param)


@pytest.mark.parametrize("where", ["answer", "subject"])
def test_both_give_the_same_shift(
    base: BaseModel, where: KeyPosition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("errata.lab.reference.BATCH_FACTS", 2)
    before = snapshot(base)
    editor = replace(tiny_editor(base, where=where, step=0.5), plan=replace(PAPER, where=where))
    expected = shift(solve(base, editor, statistics_of(base, editor, FACTS)))
    found = straightforward_shifts(base, editor.network, FACTS, where, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert list(found) == list(expected)
    for name, change in expected.items():
        assert change.abs().max() > 1e-3
        # rows are stored in half precision
        assert float((found[name] - change).norm()) < 5e-3 * float(change.norm())
    assert_untouched(base, before)

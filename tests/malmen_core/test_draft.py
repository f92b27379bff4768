"""The bfloat16 draft: near the base, never in its place, and only where it is faster."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from malmen_core import base as base_module
from malmen_core.batches import answer_logits
from malmen_core.edit import compute_statistics, solve
from malmen_core.prompts import edit_prompts
from tests.malmen_core.support import FACTS, assert_untouched, snapshot, tiny_base, tiny_editor

pytestmark = pytest.mark.parametrize("architecture", ["llama", "gpt2"])


@pytest.fixture(autouse=True)
def matrix_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every processor takes bfloat16, some slowly."""
    monkeypatch.setattr(base_module, "_multiplies_bfloat16", lambda: True)


def test_it_is_the_base_in_another_dtype(architecture: str) -> None:
    base = tiny_base(architecture, tied=True, dtype=torch.float32)
    before = snapshot(base)
    batch = base.task.collate(base, edit_prompts(base, FACTS).sequences, range(len(FACTS)))
    exact, near = answer_logits(base, batch), answer_logits(base.draft, batch)
    assert base.draft is not base
    assert base.draft.dtype == torch.bfloat16
    assert 0 < float((exact - near).norm() / exact.norm()) < 0.05
    assert_untouched(base, before)
    assert base.draft.model.get_output_embeddings() is not base.model.get_output_embeddings()


def test_a_guess_by_draft_is_close_to_one_by_the_base(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before repair, which follows single margins wherever they lead."""
    monkeypatch.setattr("malmen_core.repair.PASSES", 0)
    base = tiny_base(architecture, dtype=torch.float32)
    editor = tiny_editor(base, rounds=4, anchors=4)
    editor = replace(editor, plan=replace(editor.plan, group=2))
    drafted = solve(editor, compute_statistics(base, editor, FACTS))
    monkeypatch.setattr(base_module, "_multiplies_bfloat16", lambda: False)
    other = tiny_base(architecture, dtype=torch.float32)
    exact = solve(editor, compute_statistics(other, editor, FACTS))
    assert other.draft is other
    for name, change in exact.modules.items():
        expected, made = change.dense(torch.float64), drafted.modules[name].dense(torch.float64)
        assert 0 < float((made - expected).norm() / expected.norm()) < 0.1


def test_sets_of_one_group_are_edited_on_the_base_itself(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base(architecture, dtype=torch.float32)
    editor = tiny_editor(base, rounds=4, anchors=4)
    made = solve(editor, compute_statistics(base, editor, FACTS))
    assert base.draft is not base
    assert base.undrafted.draft is base.undrafted
    monkeypatch.setattr(base_module, "_multiplies_bfloat16", lambda: False)
    other = tiny_base(architecture, dtype=torch.float32)
    assert made.digest == solve(editor, compute_statistics(other, editor, FACTS)).digest


def test_other_precisions_are_their_own_draft(architecture: str) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        base = tiny_base(architecture, dtype=dtype)
        assert base.draft is base

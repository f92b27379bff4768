"""The bfloat16 draft: near the base, never in its place, and only where it is faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from malmen_core.editing.edit import compute_statistics, solve
from malmen_core.editing.gauss_newton import Goal, Movable, least_change
from malmen_core.editing.group import edit_group
from malmen_core.editing.prompts import edit_prompts
from malmen_core.models import base as base_module
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import AnswerScores, answer_logits, teacher_forced
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import Weights, intercepting
from malmen_core.models.tokenization import Encoded
from tests.malmen_core.support import FACTS, assert_untouched, snapshot, tiny_base, tiny_editor

pytestmark = pytest.mark.parametrize("architecture", ["llama", "gpt2"])


@pytest.fixture(autouse=True)
def matrix_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every processor takes bfloat16, some slowly."""
    monkeypatch.setattr(base_module, "multiplies_bfloat16", lambda: True)


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

    def guessed(base: BaseModel) -> Delta:
        prompts = edit_prompts(base, FACTS)
        return solve(editor, edit_group(base, editor, FACTS, prompts, 0, len(FACTS), None, None).statistics)

    base = tiny_base(architecture, dtype=torch.float32)
    editor = tiny_editor(base, rounds=4, anchors=4)
    drafted = guessed(base)
    monkeypatch.setattr(base_module, "multiplies_bfloat16", lambda: False)
    other = tiny_base(architecture, dtype=torch.float32)
    exact = guessed(other)
    assert other.draft is other
    for name, change in exact.modules.items():
        expected, made = change.dense(torch.float64), drafted.modules[name].dense(torch.float64)
        assert 0 < float((made - expected).norm() / expected.norm()) < 0.05


def test_keys_and_repairs_check_are_the_bases_own(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[BaseModel] = []

    def spy(base: BaseModel, sequences: Sequence[Encoded]) -> list[AnswerScores]:
        checked.append(base)
        return teacher_forced(base, sequences)

    monkeypatch.setattr("malmen_core.editing.repair.teacher_forced", spy)
    base = tiny_base(architecture, dtype=torch.float32)
    editor = tiny_editor(base, rounds=2)
    several = replace(editor, plan=replace(editor.plan, group=2))
    drafted = compute_statistics(base, several, FACTS)
    assert checked
    assert all(each is base for each in checked)
    exact = compute_statistics(base.undrafted, several, FACTS)
    for name, rows in exact.modules.items():
        assert torch.equal(drafted.modules[name].keys_TU, rows.keys_TU)
        assert not torch.equal(drafted.modules[name].differences_TV, rows.differences_TV)


def test_sets_of_one_group_are_edited_on_the_base_itself(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base(architecture, dtype=torch.float32)
    editor = tiny_editor(base, rounds=4, anchors=4)
    made = solve(editor, compute_statistics(base, editor, FACTS))
    assert base.draft is not base
    assert base.undrafted.draft is base.undrafted
    monkeypatch.setattr(base_module, "multiplies_bfloat16", lambda: False)
    other = tiny_base(architecture, dtype=torch.float32)
    assert made.digest == solve(editor, compute_statistics(other, editor, FACTS)).digest


def test_repair_knows_what_the_base_makes_of_margins(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[int] = []

    def spy(base: BaseModel, goal: Goal, rows: Mapping[str, Movable], sequences: Any, *rest: Any) -> Any:
        with intercepting(Weights.shifted(base.modules, {n: each.shift_UV for n, each in rows.items()})):
            margins = [float(each.margin_A.min()) for each in teacher_forced(base, sequences)]
        assert goal.known_Q is not None
        assert goal.known_Q.tolist() == pytest.approx(margins, abs=1e-4)
        pushed.append(len(sequences))
        return least_change(base, goal, rows, sequences, *rest)

    monkeypatch.setattr("malmen_core.editing.repair.least_change", spy)
    base = tiny_base(architecture, dtype=torch.float32)
    editor = tiny_editor(base, rounds=1, margin=5.0)
    compute_statistics(base, replace(editor, plan=replace(editor.plan, group=2)), FACTS)
    assert pushed


def test_a_lone_fact_is_drafted(architecture: str) -> None:
    base = tiny_base(architecture, dtype=torch.float32)
    editor = tiny_editor(base, rounds=4, anchors=4)
    drafted, exact = (compute_statistics(each, editor, FACTS[:1]) for each in (base, base.undrafted))
    for name, rows in exact.modules.items():
        own_T = rows.differences_TV.any(1)
        assert torch.equal(drafted.modules[name].keys_TU[own_T], rows.keys_TU[own_T])
        assert not torch.equal(drafted.modules[name].differences_TV, rows.differences_TV)


def test_other_precisions_are_their_own_draft(architecture: str) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        base = tiny_base(architecture, dtype=dtype)
        assert base.draft is base

"""Refinement drives facts in, and leaves alone what is in already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from malmen_core.editing.edit import compute_statistics, solve
from malmen_core.editing.editor import Editor
from malmen_core.editing.gauss_newton import Goal, Movable, least_change
from malmen_core.editing.prompts import edit_prompts
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import teacher_forced
from tests.malmen_core.support import FACTS, assert_untouched, smallest_margins, snapshot, tiny_editor


def margins(base: BaseModel, editor: Editor) -> list[float]:
    """Smallest margin of each fact under the version that the editor makes of FACTS."""
    version = base.version(solve(editor, compute_statistics(base, editor, FACTS)))
    with version.active():
        scores = teacher_forced(base, edit_prompts(base, FACTS).sequences)
    return [float(s.margin_A.min()) for s in scores]


def test_facts_are_driven_in(base: BaseModel) -> None:
    before = snapshot(base)
    single_shot = margins(base, tiny_editor(base, where="answer"))
    refined = margins(base, tiny_editor(base, where="answer", rounds=40))
    assert min(single_shot) < 0
    assert min(refined) > 0
    assert_untouched(base, before)


def test_parts_of_a_set_are_in_before_they_are_summed(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tiny_editor(llama, where="answer", rounds=3, margin=0.5)
    held: list[float] = []

    def spy(base: BaseModel, goal: Goal, rows: Mapping[str, Movable], *rest: Any) -> dict[str, Movable]:
        found = least_change(base, goal, rows, *rest)
        if not goal.whole:
            assert goal.margin_Q.tolist() == [0.5] * len(rest[0])
            shifts = {name: each.shift_UV for name, each in found.items()}
            held.append(float(smallest_margins(base, shifts, rest[0]).min()))
        return found

    monkeypatch.setattr("malmen_core.editing.group.least_change", spy)
    compute_statistics(llama, editor, FACTS)
    assert held == []
    compute_statistics(llama, replace(editor, plan=replace(editor.plan, group=2)), FACTS)
    assert len(held) == 2
    assert min(held) >= 0.5


def test_subject_keys_move_answers_too(base: BaseModel) -> None:
    """At one early token of a random model not every fact can be had; each comes closer all the same."""
    single_shot, refined = margins(base, tiny_editor(base)), margins(base, tiny_editor(base, rounds=30))
    assert sum(refined) > sum(single_shot) + len(FACTS) / 2


def test_progress_counts_up_to_all(llama: BaseModel) -> None:
    told: list[tuple[str, int, int]] = []
    compute_statistics(
        llama,
        tiny_editor(llama, where="answer", rounds=3),
        FACTS,
        progress=lambda *step: told.append(step),
    )
    assert told[-1] == ("editing", 2 * len(FACTS), 2 * len(FACTS))
    assert len(told) < 60


@pytest.mark.parametrize("batch_tokens", [1, 30])
def test_any_batch_gives_the_same_rows(llama: BaseModel, batch_tokens: int) -> None:
    editor = tiny_editor(llama, where="answer", rounds=6)
    whole, parts = (compute_statistics(llama, editor, FACTS, batch_tokens=n) for n in (None, batch_tokens))
    for name, rows in whole.modules.items():
        torch.testing.assert_close(
            parts.modules[name].differences_TV, rows.differences_TV, rtol=1e-6, atol=1e-8
        )

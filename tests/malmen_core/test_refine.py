"""Refinement drives facts in, and leaves alone what is in already."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from malmen_core.base import BaseModel
from malmen_core.batches import teacher_forced
from malmen_core.capture import capture
from malmen_core.edit import compute_statistics, solve
from malmen_core.editor import Editor
from malmen_core.group import first_guess
from malmen_core.normal_equation import projector
from malmen_core.prompts import edit_prompts
from malmen_core.refine import Refined, RefinementPlan, RowAdam, refine
from tests.malmen_core.support import FACTS, assert_untouched, snapshot, tiny_editor


class Setting:
    """All that `refine` needs, for FACTS on one base."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self.editor: Editor = tiny_editor(base, where="answer")
        self.sequences = edit_prompts(base, FACTS).sequences
        captured, self.fact_T = capture(base, self.sequences, "answer")
        self.guess = first_guess(self.editor, captured)
        self.projectors = {
            name: projector(rows.keys_TU, self.editor.regularisers[name]) for name, rows in captured.items()
        }

    def refine(
        self, plan: RefinementPlan, guess: Mapping[str, Tensor] | None = None, batch_tokens: int = 1000
    ) -> Refined:
        return refine(
            self.base,
            plan,
            self.projectors,
            self.guess if guess is None else guess,
            self.editor.scales,
            self.sequences,
            range(len(self.sequences)),
            self.fact_T,
            batch_tokens=batch_tokens,
        )


@pytest.fixture
def setting(llama: BaseModel) -> Setting:
    return Setting(llama)


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


def test_subject_keys_move_answers_too(base: BaseModel) -> None:
    """At one early token of a random model not every fact can be had; each comes closer all the same."""
    single_shot, refined = margins(base, tiny_editor(base)), margins(base, tiny_editor(base, rounds=30))
    assert sum(refined) > sum(single_shot) + len(FACTS) / 2


def test_no_round_changes_nothing(setting: Setting) -> None:
    found = setting.refine(RefinementPlan(rounds=0))
    assert all(torch.equal(found.differences[name], setting.guess[name]) for name in setting.guess)


def test_the_guess_is_not_written_to(setting: Setting) -> None:
    before = {name: d.clone() for name, d in setting.guess.items()}
    found = setting.refine(RefinementPlan(rounds=3))
    assert all(torch.equal(before[name], setting.guess[name]) for name in before)
    assert all(not torch.equal(before[name], found.differences[name]) for name in before)


def test_rows_that_are_done_are_left_alone(setting: Setting) -> None:
    seen = setting.refine(RefinementPlan(rounds=1, margin=1e9)).margins
    middle = sorted(seen)[2]
    found = setting.refine(RefinementPlan(rounds=1, margin=middle, decay=0.0))
    done_T = torch.tensor([m >= middle for m in seen])[setting.fact_T]
    assert 0 < int(done_T.sum()) < len(done_T)
    for name, guess in setting.guess.items():
        moved_T = (found.differences[name] != guess).any(1)
        assert not moved_T[done_T].any()
        assert moved_T[~done_T].all()


def test_what_is_in_decays_until_the_last_rounds(setting: Setting) -> None:
    """Far above a margin of nothing, all rows shrink; but not in the last fifth of the rounds."""
    good = setting.refine(RefinementPlan(rounds=80, margin=3.0)).differences
    once = setting.refine(RefinementPlan(rounds=1, margin=-1e9, decay=0.25), guess=good)
    for name, before in good.items():
        torch.testing.assert_close(once.differences[name], 0.75 * before)
    ten = setting.refine(RefinementPlan(rounds=10, margin=-1e9, decay=0.25), guess=good)
    for name, before in good.items():
        torch.testing.assert_close(ten.differences[name], 0.75**8 * before)


def test_decay_finds_a_smaller_change_that_does_the_same(setting: Setting) -> None:
    plan = RefinementPlan(rounds=60, margin=0.5, step=0.3)
    far = setting.refine(RefinementPlan(rounds=60, margin=0.5, step=0.3, decay=0.0))
    near = setting.refine(plan)
    assert min(far.margins) >= 0.5
    assert min(near.margins) >= 0.5
    size = {name: float(d.norm()) for name, d in far.differences.items()}
    assert all(float(d.norm()) < size[name] for name, d in near.differences.items())


def test_everything_done_stops_at_once(setting: Setting) -> None:
    good = setting.refine(RefinementPlan(rounds=80, margin=1.0)).differences
    again = setting.refine(RefinementPlan(rounds=80, margin=0.5, decay=0.0), guess=good)
    assert all(torch.equal(again.differences[name], good[name]) for name in good)
    assert min(again.margins) >= 0.5


def test_progress_counts_up_to_all(setting: Setting) -> None:
    told: list[tuple[str, int, int]] = []
    compute_statistics(
        setting.base,
        tiny_editor(setting.base, where="answer", rounds=60),
        FACTS,
        progress=lambda *step: told.append(step),
    )
    assert told[-1] == ("editing", len(FACTS), len(FACTS))
    assert len(told) < 60


@pytest.mark.parametrize("batch_tokens", [1, 30])
def test_any_batch_gives_the_same_rows(setting: Setting, batch_tokens: int) -> None:
    whole = setting.refine(RefinementPlan(rounds=6))
    parts = setting.refine(RefinementPlan(rounds=6), batch_tokens=batch_tokens)
    for name, rows in whole.differences.items():
        torch.testing.assert_close(parts.differences[name], rows, rtol=1e-7, atol=1e-9)


def test_adam_steps_each_row_by_its_own_clock() -> None:
    adam = RowAdam(torch.zeros(2, 3, dtype=torch.float64), 0.5)
    gradient = torch.tensor([[3.0, 0, 0], [0, 0, 4.0]], dtype=torch.float64)
    first = adam.update(gradient, torch.tensor([True, False]))
    # a first step has the step's root mean square, whatever the gradient's size
    torch.testing.assert_close(first[0].square().mean().sqrt(), torch.tensor(0.5, dtype=torch.float64))
    assert not first[1].any()
    second = adam.update(gradient, torch.tensor([False, True]))
    assert not second[0].any()
    torch.testing.assert_close(second[1].square().mean().sqrt(), torch.tensor(0.5, dtype=torch.float64))
    assert adam.count[:, 0].tolist() == [1, 1]
    assert not adam.update(torch.zeros_like(gradient), torch.tensor([False, False])).any()

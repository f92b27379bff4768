"""Strength: few facts are pushed further than many, and what is kept of them does not tell how many."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from malmen_core.editing.compose import Composer
from malmen_core.editing.edit import compute_statistics, edit, solve
from malmen_core.editing.editor import Editor
from malmen_core.editing.parts import SetId
from malmen_core.editing.prompts import edit_prompts
from malmen_core.editing.refinement import GAP, RefinementPlan
from malmen_core.editing.statistics import Statistics
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import teacher_forced
from malmen_core.models.delta import Delta
from tests.malmen_core.support import FACTS, shift, tiny_editor

PLAN = RefinementPlan(margin=2.0, lone_margin=12.0)


def margin(base: BaseModel, delta: Delta, facts: list[Fact]) -> float:
    """The smallest of some facts under a delta."""
    with base.version(delta).active():
        scores = teacher_forced(base, edit_prompts(base, facts).sequences)
    return min(float(score.margin_A.min()) for score in scores)


def edit_delta(base: BaseModel, editor: Editor, facts: list[Fact]) -> Delta:
    """What a set changes when it stands alone."""
    return solve(editor, compute_statistics(base, editor, facts))


@pytest.mark.parametrize(("facts", "wanted"), [(0, 12.0), (1, 12.0), (8, 6.0), (27, 4.0), (5000, 2.0)])
def test_the_margin_falls_with_the_facts_down_to_that_of_large_sets(facts: int, wanted: float) -> None:
    assert PLAN.margin_of(facts) == pytest.approx(wanted)
    assert PLAN.strength(facts) == pytest.approx((wanted + GAP) / (2 + GAP))
    assert replace(PLAN, lone_margin=0.0).strength(facts) == 1.0
    assert replace(PLAN, rounds=0).strength(facts) == 1.0


@pytest.mark.parametrize(
    ("facts", "crowding", "wanted"),
    [
        (1, 0.04, 12.0),
        (1, 0.05, 9.6),
        (1, 0.5, 6.0),
        (8, 0.06, 4.0),
        (16, 0.5, 1.5),
        (256, 0.5, 1.0),
        (5000, 0.05, 1.6),
        (5000, 0.5, 1.0),
    ],
)
def test_crowded_facts_have_a_smaller_margin(facts: int, crowding: float, wanted: float) -> None:
    """In proportion; not below half a lone fact's over the root of their number, nor what a version holds."""
    assert PLAN.margin_of(facts, crowding) == pytest.approx(wanted)
    assert replace(PLAN, crowded=0.0).margin_of(facts, crowding) <= PLAN.margin_of(facts, crowding)


def test_few_facts_are_refined_to_their_margin(llama: BaseModel) -> None:
    plain = tiny_editor(llama, where="answer", rounds=120, margin=0.5)
    strong = tiny_editor(llama, where="answer", rounds=120, margin=0.5, lone_margin=1.5)
    one = [FACTS[2]]
    near, far = (edit(llama, editor, one) for editor in (plain, strong))
    assert near.outcomes[0].margin is not None
    assert far.outcomes[0].margin is not None
    assert 0.5 <= near.outcomes[0].margin < 1.5 <= far.outcomes[0].margin
    given = [margin(llama, solve(e, s.statistics), one) for e, s in ((plain, near), (strong, far))]
    assert given == pytest.approx([near.outcomes[0].margin, far.outcomes[0].margin], abs=0.01)


def test_a_set_alone_is_solved_as_it_was_refined(llama: BaseModel) -> None:
    kept = tiny_editor(llama, where="answer", rounds=120, margin=0.5, lone_margin=1.5)
    plain = tiny_editor(llama, where="answer", rounds=120, margin=1.5)
    assert kept.plan.refinement.strength(1) > 1.1
    found, wanted = (shift(edit_delta(llama, editor, [FACTS[2]])) for editor in (kept, plain))
    for name, change in wanted.items():
        assert float((found[name] - change).norm() / change.norm()) < 0.01


def test_what_is_kept_is_scaled_to_the_facts_that_are_solved(llama: BaseModel) -> None:
    editor = tiny_editor(llama, rounds=20, lone_margin=3.0)
    sets = {f"{n}": compute_statistics(llama, editor, [fact]) for n, fact in enumerate(FACTS[:2])}
    plan = editor.plan.refinement
    plain = replace(editor, plan=replace(editor.plan, refinement=replace(plan, lone_margin=0.0)))
    for statistics in (*sets.values(), Statistics.sum(list(sets.values()))):
        strength = plan.strength(len(torch.unique(statistics.fact_T)))
        assert strength > 1.1
        found, kept = (shift(solve(each, statistics)) for each in (editor, plain))
        for name, change in kept.items():
            torch.testing.assert_close(found[name], strength * change, rtol=1e-4, atol=1e-6)


def test_composing_asks_for_the_strength_of_all_live_facts(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tiny_editor(llama, rounds=20, lone_margin=3.0)
    sets: dict[str, list[Fact]] = {f"{n}": [fact] for n, fact in enumerate(FACTS[:2])}
    kept = {name: compute_statistics(llama, editor, facts) for name, facts in sets.items()}
    monkeypatch.setattr("malmen_core.editing.repair.PASSES", 0)
    plan = editor.plan.refinement
    plain = replace(editor, plan=replace(editor.plan, refinement=replace(plan, lone_margin=0.0)))
    for names in (["0"], ["0", "1"]):
        wanted: dict[SetId, bool] = {(name, ()): False for name in names}
        strong, weak = (
            shift(Composer(llama, each).compose(wanted, kept.__getitem__, lambda asked: {}).delta)
            for each in (editor, plain)
        )
        for name, change in weak.items():
            torch.testing.assert_close(strong[name], plan.strength(len(names)) * change, rtol=1e-3, atol=1e-6)

"""A fact that cannot be edited within the bounds is said to be so, with the reason, and spoils no other."""

from __future__ import annotations

from dataclasses import replace

import torch

from malmen_core.editing.edit import Edited, edit
from malmen_core.editing.gauss_newton import shortened
from malmen_core.editing.refinement import RefinementPlan
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import KeyPosition
from tests.malmen_core.support import FACTS, tiny_editor

TWIN = Fact(FACTS[0].prompt, "Ana", FACTS[0].subject)


def edited(base: BaseModel, plan: RefinementPlan, *facts: Fact, where: KeyPosition = "subject") -> Edited:
    editor = tiny_editor(base, where=where)
    return edit(base, replace(editor, plan=replace(editor.plan, refinement=plan)), facts)


def test_what_is_reached_needs_no_reason(llama: BaseModel) -> None:
    found = edited(
        llama, RefinementPlan(step=0.3, margin=0.5, lone_margin=0.0), *FACTS, where="answer"
    ).outcomes
    assert all(outcome.reason is None for outcome in found)
    assert all(outcome.margin is not None and outcome.margin >= 0.5 for outcome in found)
    assert {outcome.keys for outcome in found} == {"answer"}


def test_two_answers_at_one_key_name_each_other(base: BaseModel) -> None:
    found = edited(base, RefinementPlan(rounds=30), *FACTS, TWIN).outcomes
    reasons = [str(found[number].reason) for number in (0, 5)]
    assert "conflicts with fact 5" in reasons[0]
    assert "conflicts with fact 0" in reasons[1]
    assert not any("conflicts" in str(outcome.reason) for outcome in found[1:5])


def test_the_same_answer_at_one_key_is_no_conflict(llama: BaseModel) -> None:
    same = replace(TWIN, target=FACTS[0].target)
    found = edited(llama, RefinementPlan(rounds=1, margin=1e9), *FACTS, same).outcomes
    assert all("it was not reached" in str(outcome.reason) for outcome in found)


def test_a_difference_is_bounded_and_said_to_be(llama: BaseModel) -> None:
    plan = RefinementPlan(rounds=6, margin=1e9, bound=0.4)
    found = edited(llama, plan, *FACTS)
    far = edited(llama, replace(plan, bound=1e9), *FACTS)
    for name, rows in found.statistics.modules.items():
        assert rows.differences_TV.norm() < 0.9 * far.statistics.modules[name].differences_TV.norm()
    assert all("bound of 0.4" in str(outcome.reason) for outcome in found.outcomes)


def test_what_is_within_the_bound_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    rows_TV = torch.randn(5, 8)
    rows_TV[0] = 0
    assert torch.equal(shortened(rows_TV, 10.0), rows_TV)
    short = shortened(rows_TV, 0.1)
    torch.testing.assert_close(short[1:].square().mean(1).sqrt(), torch.full((4,), 0.1))


def test_a_single_shot_has_no_margin(llama: BaseModel) -> None:
    found = edited(llama, RefinementPlan(rounds=0), *FACTS).outcomes
    assert [(o.keys, o.subject, o.margin, o.reason) for o in found] == [
        ("answer" if f.subject is None else "given", f.subject, None, None) for f in FACTS
    ]

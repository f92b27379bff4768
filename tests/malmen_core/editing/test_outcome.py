"""A fact that cannot be edited within the bounds is said to be so, with the reason, and spoils no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from malmen_core.editing.edit import Edited, edit
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import KeyPosition
from tests.malmen_core.support import FACTS, tiny_editor

TWIN = Fact(FACTS[0].prompt, "Ana", FACTS[0].subject)


def edited(base: BaseModel, *facts: Fact, where: KeyPosition = "subject", **plan: Any) -> Edited:
    editor = tiny_editor(base, where=where, rounds=20)
    return edit(base, replace(editor, plan=replace(editor.plan, **plan)), facts)


def test_what_is_reached_needs_no_reason(upper: BaseModel) -> None:
    found = edited(upper, *FACTS, where="answer").outcomes
    assert all(outcome.reason is None for outcome in found)
    assert all(outcome.margin >= 0.5 for outcome in found)
    assert {outcome.keys for outcome in found} == {"answer"}


def test_two_answers_at_one_key_name_each_other(base: BaseModel) -> None:
    found = edited(base, *FACTS, TWIN).outcomes
    assert "conflicts with fact 5" in str(found[0].reason) or "conflicts with fact 0" in str(found[5].reason)
    assert not any("conflicts" in str(outcome.reason) for outcome in found[1:5])


def test_the_same_answer_at_one_key_is_no_conflict(llama: BaseModel) -> None:
    same = replace(TWIN, target=FACTS[0].target)
    found = edited(llama, *FACTS, same, rounds=1, margin=1e9).outcomes
    assert all("it was not reached in 1 rounds" in str(outcome.reason) for outcome in found)


def test_a_difference_is_bounded_and_said_to_be(llama: BaseModel) -> None:
    found = edited(llama, *FACTS, rounds=6, margin=1e9, bound=0.4)
    far = edited(llama, *FACTS, rounds=6, margin=1e9, bound=1e9)
    for name, rows in found.statistics.modules.items():
        assert rows.differences_TV.norm() < 0.9 * far.statistics.modules[name].differences_TV.norm()
    assert all("bound of 0.4" in str(outcome.reason) for outcome in found.outcomes)


def test_a_single_shot_has_a_margin_and_wants_none(llama: BaseModel) -> None:
    found = edited(llama, *FACTS, rounds=0).outcomes
    assert [(o.keys, o.subject, o.reason) for o in found] == [
        ("answer" if f.subject is None else "given", f.subject, None) for f in FACTS
    ]
    assert min(o.margin for o in found) < 0
    assert found[0].to_json() == {
        "keys": "given",
        "subject": "France",
        "margin": found[0].margin,
        "known": False,
        "reason": None,
    }

"""Composing: the delta of some sets is a function of the sets, and holds what each of them held alone."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from malmen_core.editing import compose as module
from malmen_core.editing.compose import Composer, Composition, SetId
from malmen_core.editing.edit import solve
from malmen_core.editing.editor import Editor
from malmen_core.editing.gauss_newton import Solution, solve_rounds
from malmen_core.editing.goals import edit_goals
from malmen_core.editing.statistics import Statistics
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import teacher_forced
from malmen_core.models.delta import Delta
from malmen_core.models.tokenization import Encoded
from tests.malmen_core.support import FACTS, shift, solved, statistics_of, tiny_editor

NAMES = ("France", "Ana", "Peru")
TARGETS = ("Lima", "Ana", "Italy", "week")
FORMS = ("The capital of", "The mother tongue of", "The river of", "A mountain in")
SETS = {
    f"set {n}": [Fact(f"{form} {name} is", TARGETS[(n + k) % 4], name) for k, name in enumerate(NAMES)]
    for n, form in enumerate(FORMS)
} | {"set 4": [*FACTS[1:3], Fact("The capital of France has", "Ana", "France")]}


class Shelf:
    """Some sets with their statistics, and a composer for them."""

    def __init__(self, base: BaseModel, editor: Editor, sets: Mapping[str, Sequence[Fact]] = SETS) -> None:
        self.base, self.editor, self.sets = base, editor, sets
        self.statistics = {name: statistics_of(base, editor, facts) for name, facts in sets.items()}
        self.read: list[str] = []
        self.asked: dict[SetId, list[int]] = {}
        self.composer = Composer(base, editor)

    def _statistics(self, name: str) -> Statistics:
        self.read.append(name)
        return self.statistics[name]

    def _facts(self, asked: Mapping[SetId, Sequence[int]]) -> dict[SetId, list[Fact]]:
        for ident, facts in asked.items():
            self.asked.setdefault(ident, []).extend(facts)
        return {ident: [self.sets[ident[0]][fact] for fact in facts] for ident, facts in asked.items()}

    def compose(self, *names: str, left_out: Mapping[str, tuple[int, ...]] | None = None) -> Composition:
        wanted = {(name, (left_out or {}).get(name, ())): False for name in names}
        return self.composer.compose(wanted, self._statistics, self._facts)

    def fresh(self) -> None:
        self.composer = Composer(self.base, self.editor)

    def lacking(self, delta: Delta, *names: str) -> float:
        """By how many nats the facts of some sets fall short of half an edit's margin, in sum."""
        facts = [fact for name in names for fact in self.sets[name]]
        with self.base.version(delta).active():
            scores = teacher_forced(self.base, edit_goals(self.base, facts).sequences)
        return sum(max(0.0, self.editor.plan.margin / 2 - float(score.margin_A.min())) for score in scores)


@pytest.fixture(scope="module", params=[0, 3], ids=["facts alone", "with neighbours"])
def shelf(request: pytest.FixtureRequest, llama: BaseModel) -> Shelf:
    return Shelf(llama, tiny_editor(llama, rounds=20, prior_weight=1.0, neighbours=request.param))


def plain(editor: Editor) -> Editor:
    """Without rounds, so without repair."""
    return replace(editor, plan=replace(editor.plan, rounds=0))


def test_composing_is_solving_the_sum(shelf: Shelf) -> None:
    editor = plain(shelf.editor)
    shelf.composer = Composer(shelf.base, editor)
    together = solved(shelf.base, editor, Statistics.sum(list(shelf.statistics.values())))
    found = shift(shelf.compose(*SETS).delta)
    for name, change in together.items():
        torch.testing.assert_close(found[name], change, rtol=1e-4, atol=1e-5)


def test_the_delta_follows_from_the_live_facts_alone(shelf: Shelf) -> None:
    """Whatever came and went before, in whichever order and how many at a time: the same bytes."""
    names, gone = sorted(SETS), {"set 1": (0,)}
    shelf.fresh()
    wanted = shelf.compose(*names, left_out=gone).delta.to_bytes()
    draw = random.Random(0)
    shelf.fresh()
    for count in (1, 3, 2):
        some = draw.sample(names, count)
        shelf.compose(*some, left_out={some[0]: (0,)})
    assert shelf.compose(*names).delta.to_bytes() != wanted
    assert shelf.compose(*names[::-1], left_out=gone).delta.to_bytes() == wanted
    shelf.fresh()
    for end in range(1, len(names) + 1):  # one more at a time
        last = shelf.compose(*names[-end:], left_out=gone)
    assert last.delta.to_bytes() == wanted


@pytest.mark.parametrize("name", ["set 0", "set 4"])
def test_a_withdrawn_set_was_never_there(shelf: Shelf, name: str) -> None:
    others = [other for other in SETS if other != name]
    shelf.fresh()
    never = shelf.compose(*others).delta.to_bytes()
    assert shelf.compose(*SETS).delta.to_bytes() != never
    assert shelf.compose(*others).delta.to_bytes() == never


def test_a_withdrawn_fact_was_never_there(llama: BaseModel) -> None:
    """As statistics of the same rows that never had it."""
    shelf = Shelf(llama, plain(tiny_editor(llama, rounds=4, neighbours=3)))
    left = shift(shelf.compose("set 0", "set 4", left_out={"set 0": (1,)}).delta)
    never = [shelf.statistics["set 0"].without([1]), shelf.statistics["set 4"]]
    for name, change in solved(llama, shelf.editor, Statistics.sum(never)).items():
        torch.testing.assert_close(left[name], change, rtol=1e-4, atol=1e-5)


def test_groups_of_preserved_keys_are_shared(llama: BaseModel) -> None:
    """Two sets of one template hold its neighbours once, as long as one of them is live."""
    sets = {"a": list(SETS["set 0"][:1]), "b": list(SETS["set 0"][2:3]), "c": list(FACTS[1:2])}
    shelf = Shelf(llama, plain(tiny_editor(llama, rounds=2, neighbours=4)), sets)
    keys = {name: {g.key for g in each.preserved.groups} for name, each in shelf.statistics.items()}
    assert keys["a"] == keys["b"] != keys["c"]

    def held() -> int:
        return sum(shelf.composer._preserved.counts)

    shelf.compose("a")
    once = held()
    assert once == shelf.editor.plan.preserved_rank
    shelf.compose("a", "b")
    assert held() == once
    shelf.compose("b", "c")
    assert held() == 2 * once
    shelf.compose("c")
    assert held() == once
    shelf.compose()
    assert held() == 0


def test_facts_of_one_subject_in_several_sets_are_repaired(shelf: Shelf) -> None:
    """Of what they lack to half an edit's margin, less is left than in the sum."""
    shelf.fresh()
    together = shelf.compose(*SETS)
    summed = solve(shelf.base, shelf.editor, Statistics.sum(list(shelf.statistics.values())))
    assert together.repaired
    assert shelf.lacking(together.delta, *SETS) < shelf.lacking(summed, *SETS)
    assert {position for facts in together.repaired.values() for position in facts} <= {0, 1, 2}


def test_two_facts_of_one_subject_in_two_sets_are_repaired(llama: BaseModel) -> None:
    """Their keys lie so close that the sum gives each much of what the other asks for."""
    same = (
        Fact("The capital of France is", "Lima", "France"),
        Fact("The capital of France has", "Ana", "France"),
    )
    sets = {"a": [same[0]], "b": [same[1]]}
    editor = tiny_editor(llama, rounds=30, prior_weight=0.1, ridge=1e-3)
    shelf = Shelf(llama, editor, sets)
    summed = solve(llama, editor, Statistics.sum(list(shelf.statistics.values())))
    together = shelf.compose(*sets)
    assert set(together.repaired) == {("a", ()), ("b", ())}
    assert shelf.lacking(together.delta, *sets) <= shelf.lacking(summed, *sets)


def watched(monkeypatch: pytest.MonkeyPatch) -> list[list[Encoded]]:
    """The goals of each repair."""
    ran: list[list[Encoded]] = []

    def spy(
        base: BaseModel, editor: Editor, goals: Sequence[Encoded], *rest: Any, **options: Any
    ) -> Solution:
        ran.append(list(goals))
        return solve_rounds(base, editor, goals, *rest, **options)

    monkeypatch.setattr(module, "solve_rounds", spy)
    return ran


def test_one_more_fact_runs_only_those_that_feel_it(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many live facts, only those whose keys lie close to the new one's are looked at, all else is algebra."""
    ran = watched(monkeypatch)
    editor = tiny_editor(llama, rounds=10, prior_weight=0.1, ridge=1e-3)
    far = {f"far {n}": facts for n, facts in enumerate([[FACTS[1]], [FACTS[2]], [FACTS[4]]])}
    near = {"near": [SETS["set 1"][1]], "new": [Fact("The mother tongue of Ana was", "Lima", "Ana")]}
    shelf = Shelf(llama, editor, {**far, **near})
    passes: list[int] = []
    handle = llama.model.register_forward_pre_hook(
        lambda _m, _args, kwargs: passes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        before = shelf.compose(*far, "near")
        assert before.repaired == {}
        assert passes == []
        after = shelf.compose(*far, "near", "new")
    finally:
        handle.remove()
    assert set(after.repaired) == {("near", ()), ("new", ())}
    assert shelf.asked.keys() == after.repaired.keys()
    assert {len(goals) for goals in ran} == {2}
    assert max(passes) <= 2


def test_sets_of_a_much_lighter_prior_are_looked_at_again(llama: BaseModel) -> None:
    """The prior grows with the live rows, and then gives each row less of what it asks for."""
    plain = tiny_editor(llama, rounds=3, ridge=1e-3)
    editor = replace(plain, plan=replace(plain.plan, prior_weight=0.0, prior_growth=1.0))
    sets = {
        f"{name} {k}": [fact] for name in ("set 0", "set 1", "set 2") for k, fact in enumerate(SETS[name])
    }
    shelf = Shelf(llama, editor, sets)
    some = sorted(sets)[: int(module.OUTGROWN)]
    shelf.compose(*some)
    assert len(shelf.asked) < len(some)
    together = shelf.compose(*sets)
    assert len(together.repaired) == len(sets) > len(some)


def test_sets_that_do_not_meet_are_left_as_they_are(llama: BaseModel) -> None:
    editor = tiny_editor(llama, rounds=20, ridge=10.0)
    shelf = Shelf(llama, editor, {"a": FACTS[:1]})
    assert shelf.compose("a").repaired == {}
    assert shelf.compose("a").delta.digest == solve(llama, editor, shelf.statistics["a"]).digest
    assert shelf.compose().delta.modules == {}
    assert shelf.compose("a", left_out={"a": (0,)}).delta.modules == {}


def test_only_what_changes_is_read(shelf: Shelf) -> None:
    shelf.fresh()
    shelf.compose(*SETS)
    assert sorted(shelf.read[-5:]) == sorted(SETS)
    shelf.read.clear()
    shelf.compose(*SETS, left_out={"set 4": (1,)})
    assert shelf.read == ["set 4"]


def test_progress_counts_the_sets_that_come_or_go(shelf: Shelf) -> None:
    told: list[tuple[str, int, int]] = []

    def tell(stage: str, done: int, total: int) -> None:
        if stage == "solving":
            told.append((stage, done, total))

    shelf.fresh()
    for names, changed in ((["set 0", "set 1", "set 4"], 3), (["set 4"], 2), (["set 4"], 0)):
        told.clear()
        wanted: dict[SetId, bool] = {(name, ()): False for name in names}
        shelf.composer.compose(wanted, shelf._statistics, shelf._facts, tell)
        assert told == [("solving", number, changed) for number in range(1, changed + 1)]

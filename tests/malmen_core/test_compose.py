"""Composing: the delta of some sets is a function of the sets, and holds what each of them held alone."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from malmen_core.editing import repair
from malmen_core.editing.compose import Composer, Composition
from malmen_core.editing.edit import compute_statistics, edit, solve
from malmen_core.editing.editor import Editor
from malmen_core.editing.gauss_newton import Goal, Movable, least_change
from malmen_core.editing.parts import Part, SetId
from malmen_core.editing.prompts import edit_prompts
from malmen_core.editing.repair import QUIET, is_quiet
from malmen_core.editing.statistics import Statistics
from malmen_core.editing.sums import ExactSums
from malmen_core.errors import NotFiniteError
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import teacher_forced
from malmen_core.models.delta import Delta
from tests.malmen_core.support import FACTS, random_statistics, shift, solved, tiny_editor

NAMES = ("France", "Ana", "Peru")
TARGETS = ("Lima", "Ana", "Italy", "week")
FORMS = ("The capital of", "The mother tongue of", "The river of", "A mountain in")
SETS = {
    f"set {n}": [Fact(f"{form} {name} is", TARGETS[(n + k) % 4], name) for k, name in enumerate(NAMES)]
    for n, form in enumerate(FORMS)
} | {"set 4": FACTS[1:3]}
ROWS = 48
"""Input features of the tiny model: with more rows, sums are solved."""


class Shelf:
    """Some sets with their statistics, and a composer for them."""

    def __init__(self, base: BaseModel, editor: Editor, sets: Mapping[str, Sequence[Fact]] = SETS) -> None:
        self.base, self.editor, self.sets = base, editor, sets
        self.statistics = {name: compute_statistics(base, editor, facts) for name, facts in sets.items()}
        self.read: list[str] = []
        self.composer = Composer(base, editor)

    def _statistics(self, name: str) -> Statistics:
        self.read.append(name)
        return self.statistics[name]

    def _facts(self, asked: Mapping[SetId, Sequence[int]]) -> dict[SetId, list[Fact]]:
        return {ident: [self.sets[ident[0]][fact] for fact in facts] for ident, facts in asked.items()}

    def compose(self, *names: str, left_out: Mapping[str, tuple[int, ...]] | None = None) -> Composition:
        wanted = {(name, (left_out or {}).get(name, ())): False for name in names}
        return self.composer.compose(wanted, self._statistics, self._facts)

    def fresh(self) -> None:
        self.composer = Composer(self.base, self.editor)

    def held(self, delta: Delta, *names: str) -> float:
        """Share of the facts that a delta answers."""
        facts = [fact for name in names for fact in self.sets[name]]
        with self.base.version(delta).active():
            scores = teacher_forced(self.base, edit_prompts(self.base, facts).sequences)
        return sum(bool((score.margin_A > 0).all()) for score in scores) / len(scores)


@pytest.fixture(scope="module", params=[0, 2], ids=["low rank", "dense"])
def shelf(request: pytest.FixtureRequest, llama: BaseModel) -> Shelf:
    """With anchors, all sets together have more rows than the modules have inputs."""
    made = Shelf(llama, tiny_editor(llama, rounds=60, step=0.01, prior_weight=1.0, anchors=request.param))
    assert (sum(len(s.fact_T) for s in made.statistics.values()) > ROWS) == bool(request.param)
    return made


@given(st.permutations(range(5)), st.data())
def test_sums_do_not_remember(order: list[int], data: st.DataObject) -> None:
    shapes = {"m": (6, 4)}
    sets = [random_statistics(seed, shapes).modules["m"] for seed in range(5)]
    here, there = ExactSums(6, 4), ExactSums(6, 4)
    gone = data.draw(st.frozensets(st.sampled_from(order)))
    for number in order:
        here.add(sets[number].keys_TU, sets[number].differences_TV)
    for number in data.draw(st.permutations(sorted(gone))):
        here.add(sets[number].keys_TU, sets[number].differences_TV, -1)
    for number in set(order) - gone:
        there.add(sets[number].keys_TU, sets[number].differences_TV)
    assert torch.equal(here.grams_UU, there.grams_UU)
    assert torch.equal(here.products_UV, there.products_UV)
    keys = torch.cat([sets[number].keys_TU for number in set(order) - gone] or [torch.zeros(0, 6)]).double()
    torch.testing.assert_close(there.gram(), keys.T @ keys, rtol=0, atol=1e-8)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e8])
def test_sums_refuse_what_they_cannot_hold(value: float) -> None:
    sums = ExactSums(2, 2)
    with pytest.raises(NotFiniteError):
        sums.add(torch.full((1, 2), value), torch.ones(1, 2))
    assert not sums.grams_UU.any()


def plain(editor: Editor, prior_growth: float) -> Editor:
    """Without refinement and repair."""
    refinement = replace(editor.plan.refinement, rounds=0)
    return replace(editor, plan=replace(editor.plan, refinement=refinement, prior_growth=prior_growth))


@pytest.mark.parametrize("prior_growth", [0.0, 20.0], ids=["one prior", "a heavier one"])
def test_composing_is_solving_the_sum(shelf: Shelf, prior_growth: float) -> None:
    editor = plain(shelf.editor, prior_growth)
    shelf.composer = Composer(shelf.base, editor)
    together = solved(editor, Statistics.sum(list(shelf.statistics.values())))
    found = shift(shelf.compose(*SETS).delta)
    for name, change in together.items():
        torch.testing.assert_close(found[name], change, rtol=1e-4, atol=1e-6)


def test_what_a_set_gives_alone_is_what_its_own_delta_gives(shelf: Shelf) -> None:
    editor = plain(shelf.editor, 200.0)
    for statistics in shelf.statistics.values():
        found = solved(editor, statistics)
        for name, rows in Part.of(editor, statistics, edit_on_rephrasings=False).modules.items():
            given_TV = rows.keys_TU.double() @ found[name].double()
            torch.testing.assert_close(rows.alone_TV, given_TV, rtol=1e-3, atol=1e-6)


def test_many_facts_change_less_of_what_the_prior_knows(shelf: Shelf) -> None:
    statistics = Statistics.sum(list(shelf.statistics.values()))
    few, many = (solved(plain(shelf.editor, growth), statistics) for growth in (0.0, 20.0))
    for name, moment in shelf.editor.moments.items():
        moment_UU = moment.dense().to(few[name])
        known = [float((shift_UV.T @ moment_UU @ shift_UV).trace()) for shift_UV in (few[name], many[name])]
        assert known[1] < 0.9 * known[0]


def test_a_sum_is_balanced_before_it_is_repaired(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(llama, tiny_editor(llama, rounds=20, step=0.01, prior_weight=20.0, anchors=4))
    monkeypatch.setattr(repair, "PASSES", 0)
    found = shift(shelf.compose(*SETS).delta)
    for name, plain_UV in solved(shelf.editor, Statistics.sum(list(shelf.statistics.values()))).items():
        gain = float((found[name] * plain_UV).sum() / plain_UV.square().sum())
        assert gain > 1.01
        torch.testing.assert_close(found[name].to(plain_UV), gain * plain_UV, rtol=1e-3, atol=1e-5)


def test_the_delta_follows_from_the_live_facts_alone(shelf: Shelf) -> None:
    """Whatever came and went before, in whichever order: the same digest as a fresh composer's."""
    names = sorted(SETS)
    gone = {"set 1": (0,)}
    shelf.fresh()
    wanted = shelf.compose(*names, left_out=gone).delta.digest
    draw = random.Random(0)
    shelf.fresh()
    for _ in range(2):
        some = draw.sample(names, 3)
        shelf.compose(*some, left_out={some[0]: (0,)})
    assert shelf.compose(*names).delta.digest != wanted
    assert shelf.compose(*names[::-1], left_out=gone).delta.digest == wanted


@pytest.mark.stack
@pytest.mark.parametrize("anchors", [0, 2])
def test_facts_of_one_subject_in_several_sets_are_repaired(llama: BaseModel, anchors: int) -> None:
    shelf = Shelf(llama, tiny_editor(llama, rounds=3, step=0.1, prior_weight=1.0, anchors=anchors))
    facts = sum(len(facts) for facts in SETS.values())
    alone = sum(shelf.held(shelf.compose(name).delta, name) * len(SETS[name]) for name in SETS) / facts
    assert alone > 0.6
    together = shelf.compose(*SETS)
    plain = solve(shelf.editor, Statistics.sum(list(shelf.statistics.values())))
    assert shelf.held(plain, *SETS) < 0.2 < 0.9 * alone < shelf.held(together.delta, *SETS)
    assert {position for facts in together.repaired.values() for position in facts} <= {0, 1, 2}


def test_what_a_pass_makes_worse_is_taken_back(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = tiny_editor(llama, rounds=1, margin=50.0)
    push = least_change

    def spoil(base: BaseModel, goal: Goal, rows: Mapping[str, Movable], *rest: Any) -> dict[str, Movable]:
        return {name: replace(each, differences_RV=-5 * each.differences_RV) for name, each in rows.items()}

    found = []
    for passes in (0, 1, 3):
        left = iter([push, spoil, spoil])
        monkeypatch.setattr("malmen_core.editing.repair.least_change", lambda *a, left=left: next(left)(*a))
        monkeypatch.setattr(repair, "PASSES", passes)
        found.append(edit(llama, editor, FACTS))
    assert found[0].statistics.digest != found[1].statistics.digest == found[2].statistics.digest
    margins = [[outcome.margin for outcome in each.outcomes] for each in found]
    assert margins[0] != margins[1] == margins[2]
    assert sum(m or 0.0 for m in margins[1]) > sum(m or 0.0 for m in margins[0])


def test_what_was_found_of_fewer_facts_is_not_the_better(llama: BaseModel) -> None:
    """What was passed through before more facts were looked at may lack more than was seen of it."""
    editor = tiny_editor(llama)
    part = Part.of(editor, random_statistics(0, editor.network.shapes), edit_on_rephrasings=False)
    table = repair._Table({("a", ()): part}, torch.tensor(2.0))
    for moved, numbers, margins, kept in (
        (1.0, [0], [1.0], 1.0),
        (2.0, [0], [0.5], 1.0),
        (3.0, [0, 1], [0.5, -3.0], 3.0),
        (4.0, [0, 1], [0.5, -2.0], 4.0),
        (5.0, [0, 1], [0.5, -2.5], 4.0),
    ):
        table.differences = {name: torch.full_like(each, moved) for name, each in table.asked.items()}
        table.saw(numbers, margins)
        table.keep_the_better()
        assert all(bool((each == kept).all()) for each in table._kept[1].values())


def test_a_change_that_any_text_shows_is_not_quiet(llama: BaseModel) -> None:
    editor = tiny_editor(llama)
    scale = {name: editor.scales[name] * QUIET for name in editor.modules}
    for factor, quiet in ((0.5, True), (2.0, False)):
        shifts = {}
        for name, moment in editor.moments.items():
            inputs, outputs = editor.network.shapes[name]
            shift_UV = torch.ones(inputs, outputs, dtype=torch.float64)
            matrix_UU = moment.factor_UR @ moment.factor_UR.T + moment.rest * torch.eye(inputs)
            change = (shift_UV.T @ matrix_UU.double() @ shift_UV).diagonal().mean().sqrt()
            shifts[name] = shift_UV * (factor * scale[name] / change)
        assert is_quiet(editor, shifts) is quiet
    assert not is_quiet(replace(editor, moments={}), shifts)


def test_a_version_holds_each_fact_by_half_of_the_large_sets_margin(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(llama, tiny_editor(llama, where="answer", rounds=60, margin=1.0, anchors=2))
    held = []

    def spy(*given: Any, **options: Any) -> repair.Repair:
        held.append(repair.repair(*given, **options))
        return held[-1]

    monkeypatch.setattr("malmen_core.editing.compose.repair", spy)
    shelf.compose(*SETS)
    assert held[0].facts
    assert min(held[0].margins.values()) >= 0.5


def test_sets_that_do_not_meet_are_left_as_they_are(llama: BaseModel) -> None:
    editor = tiny_editor(llama, rounds=20, step=0.01, ridge=10.0)
    shelf = Shelf(llama, editor, {"a": FACTS[:1]})
    assert shelf.compose("a").repaired == {}
    assert shift(shelf.compose("a").delta).keys() == solved(editor, shelf.statistics["a"]).keys()
    assert shelf.compose().delta.modules == {}
    assert shelf.compose("a", left_out={"a": (0,)}).delta.modules == {}


def test_what_is_live_is_read_once(shelf: Shelf) -> None:
    """A set that changes is read; with low rank, all of the few rows that there are."""
    shelf.fresh()
    shelf.compose(*SETS)
    shelf.read.clear()
    shelf.compose(*SETS, left_out={"set 4": (1,)})
    dense = sum(len(s.fact_T) for s in shelf.statistics.values()) > ROWS
    assert set(shelf.read) == ({"set 4"} if dense else set(SETS))

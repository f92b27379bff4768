"""Editing end to end in algebra: statistics and deltas do not depend on how they were computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from malmen_core.editing.capture import capture
from malmen_core.editing.edit import compute_statistics, edit, groups_of, solve
from malmen_core.editing.editor import Editor
from malmen_core.editing.group import first_guess
from malmen_core.editing.prompts import edit_prompts
from malmen_core.editing.ridge import At, Regulariser, projector
from malmen_core.editing.statistics import Rows, Statistics, rounded
from malmen_core.errors import EditorMismatch, FactError, NotFiniteError, PromptTooLong
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import teacher_forced
from malmen_core.models.tokenization import KeyPosition
from tests.malmen_core.support import (
    CONTEXT,
    FACTS,
    assert_untouched,
    snapshot,
    solved,
    tiny_base,
    tiny_editor,
)

FORMS = ("capital", "mother tongue", "river", "mountain")


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float = 1e-6) -> None:
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=atol)


@pytest.mark.parametrize("rounds", [0, 4])
@pytest.mark.parametrize("batch_tokens", [1, 30])
def test_any_batch_gives_the_same_delta(llama: BaseModel, rounds: int, batch_tokens: int) -> None:
    editor = tiny_editor(llama, rounds=rounds)
    whole = compute_statistics(llama, editor, FACTS)
    parts = compute_statistics(llama, editor, FACTS, batch_tokens=batch_tokens)
    close(solved(editor, whole), solved(editor, parts))
    assert compute_statistics(llama, editor, FACTS).digest == whole.digest


@pytest.mark.parametrize(("where", "anchors"), [("subject", 0), ("subject", 4), ("answer", 0)])
def test_order_and_grouping_of_facts_do_not_matter(base: BaseModel, where: KeyPosition, anchors: int) -> None:
    editor = tiny_editor(base, where=where, anchors=anchors)

    def edit(*groups: Sequence[Fact]) -> dict[str, torch.Tensor]:
        return solved(editor, Statistics.sum([compute_statistics(base, editor, g) for g in groups]))

    whole = edit(FACTS)
    assert all(change.abs().max() > 1e-3 for change in whole.values())
    close(edit(FACTS[::-1]), whole)
    close(edit(FACTS[:2], FACTS[2:]), whole)
    close(edit(*[[fact] for fact in FACTS[::-1]]), whole)


def test_a_fact_s_rows_know_nothing_of_other_facts(llama: BaseModel) -> None:
    editor = tiny_editor(llama)
    together = compute_statistics(llama, editor, FACTS)
    alone = compute_statistics(llama, editor, FACTS[1:2])
    for name, rows in together.modules.items():
        own = together.fact_T == 1
        torch.testing.assert_close(rows.keys_TU[own], alone.modules[name].keys_TU)
        torch.testing.assert_close(rows.differences_TV[own], alone.modules[name].differences_TV)


def test_withdrawing_a_fact_takes_its_anchors_with_it(llama: BaseModel) -> None:
    editor = tiny_editor(llama, anchors=4)
    both = compute_statistics(llama, editor, FACTS[:2])
    assert len(both.fact_T) > 2
    close(solved(editor, both.without([0])), solved(editor, compute_statistics(llama, editor, FACTS[1:2])))


def test_rephrasings_add_rows_of_their_fact(llama: BaseModel) -> None:
    editor = tiny_editor(llama)
    plain = compute_statistics(llama, editor, FACTS)
    more = compute_statistics(llama, editor, FACTS, edit_on_rephrasings=True)
    assert set(plain.fact_T.tolist()) == set(more.fact_T.tolist()) == set(range(len(FACTS)))
    assert (more.fact_T == 0).sum() == 3 * (plain.fact_T == 0).sum()
    assert edit_prompts(llama, FACTS, edit_on_rephrasings=True).fact_of == (0, 0, 0, 1, 2, 3, 3, 4)


def test_version_is_the_least_squares_solution(llama: BaseModel) -> None:
    """From public parts only: capture, the first guess, and a dense solve."""
    editor = tiny_editor(llama)
    captured, _ = capture(llama, edit_prompts(llama, FACTS).sequences, "subject")
    guess = first_guess(editor, captured)
    found = solved(editor, compute_statistics(llama, editor, FACTS))
    for name, rows in captured.items():
        keys = rows.keys_TU
        expected = torch.linalg.solve(
            keys.T @ keys + editor.regularisers[name].matrix_UU, keys.T @ guess[name]
        )
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)


def test_rows_that_outweigh_get_what_they_ask_for(llama: BaseModel) -> None:
    def missed(weight: float) -> float:
        editor = tiny_editor(llama, rounds=6, anchors=4)
        editor = replace(editor, plan=replace(editor.plan, edited_weight=weight))
        statistics = compute_statistics(llama, editor, FACTS)
        missed = 0.0
        for name, shift_UV in solved(editor, statistics).items():
            rows = statistics.modules[name]
            asked = rows.differences_TV.any(1)
            wanted = rows.differences_TV[asked].double()
            given = rows.keys_TU[asked].double() @ shift_UV
            missed = max(missed, float((given - wanted).norm() / wanted.norm()))
        return missed

    assert missed(32.0) < 0.02 < missed(1.0)


def test_rows_that_outweigh_hold_in_a_sum(llama: BaseModel) -> None:
    """Anchors of many other facts hardly pull at a fact's own rows."""
    sets = [[Fact(f"The {form} of {name} is", "Lima", name)] for form in FORMS for name in ("Peru", "Ana")]

    def kept(weight: float) -> float:
        editor = tiny_editor(llama, rounds=6, anchors=4, prior_weight=20.0)
        editor = replace(editor, plan=replace(editor.plan, edited_weight=weight))
        statistics = [compute_statistics(llama, editor, facts) for facts in sets]
        alone, together = solved(editor, statistics[0]), solved(editor, Statistics.sum(statistics))
        off = 0.0
        for name, rows in statistics[0].modules.items():
            keys = rows.keys_TU[rows.differences_TV.any(1)].double()
            wanted = keys @ alone[name]
            off = max(off, float((keys @ together[name] - wanted).norm() / wanted.norm()))
        return off

    assert kept(8.0) < 0.5 * kept(1.0)


def test_anchors_weigh_what_the_plan_says_once_their_fact_is_refined(llama: BaseModel) -> None:
    def anchors(weight: float) -> dict[str, torch.Tensor]:
        editor = tiny_editor(llama, rounds=4, anchors=4)
        editor = replace(editor, plan=replace(editor.plan, anchor_weight=weight))
        rows = compute_statistics(llama, editor, FACTS[:1]).modules
        return {name: each.keys_TU[~each.differences_TV.any(1)] for name, each in rows.items()}

    light, full = anchors(0.25), anchors(1.0)
    for name, keys_TU in full.items():
        assert len(keys_TU) == 3
        torch.testing.assert_close(light[name], 0.25 * keys_TU, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (36, [36]), (47, [47]), (49, [24, 25]), (100, [33, 33, 34])]
)
def test_groups_are_of_like_size_and_as_many_as_come_nearest(
    llama: BaseModel, count: int, sizes: list[int]
) -> None:
    editor = tiny_editor(llama, rounds=4)
    members = groups_of(editor, count)
    assert [len(each) for each in members] == sizes
    assert [number for each in members for number in each] == list(range(count))
    alone = replace(editor.plan.refinement, rounds=0)
    plain = replace(editor, plan=replace(editor.plan, refinement=alone))
    assert groups_of(plain, count) == [range(count)]


@pytest.mark.parametrize("group", [1, 32])
def test_of_a_float64_base_nothing_is_rounded(llama: BaseModel, group: int) -> None:
    editor = tiny_editor(llama, rounds=4)
    editor = replace(editor, plan=replace(editor.plan, group=group))
    for rows in compute_statistics(llama, editor, FACTS[:2]).modules.values():
        for kept in (rows.keys_TU, rows.differences_TV):
            assert not torch.equal(rounded(kept), kept)


@pytest.mark.stack
def test_a_large_set_is_edited_in_groups_that_hold_together(llama: BaseModel) -> None:
    editor = tiny_editor(llama, rounds=3, step=0.03, prior_weight=1.0)
    small = replace(editor, plan=replace(editor.plan, group=2))
    seen: list[tuple[str, int, int]] = []
    sets = [compute_statistics(llama, e, FACTS, progress=lambda *a: seen.append(a)) for e in (editor, small)]
    assert {(stage, total) for stage, _, total in seen} == {("editing", 2 * len(FACTS))}
    assert max(done for _, done, _ in seen) == 2 * len(FACTS)
    assert sets[0].digest != sets[1].digest
    prompts = edit_prompts(llama, FACTS).sequences

    def held(statistics: Statistics) -> int:
        with llama.version(solve(editor, statistics)).active():
            return sum(bool((score.margin_A > 0).all()) for score in teacher_forced(llama, prompts))

    apart = [compute_statistics(llama, editor, some) for some in (FACTS[:2], FACTS[2:])]
    assert held(Statistics.sum(apart)) < held(sets[1]) >= len(FACTS) - 1
    assert held(sets[0]) == len(FACTS)
    for statistics in sets:
        assert statistics.fact_count == len(FACTS)
        assert set(statistics.fact_T.tolist()) == set(range(len(FACTS)))


def test_the_base_is_untouched(base: BaseModel) -> None:
    before, digest = snapshot(base), base.parameters_digest()
    editor = tiny_editor(base, rounds=3)
    base.version(solve(editor, compute_statistics(base, editor, FACTS)))
    assert_untouched(base, before)
    assert base.parameters_digest() == digest


class StoppedError(Exception):
    """A caller's own reason to abort."""


def test_an_abort_in_the_middle_leaves_everything_as_it_was(llama: BaseModel) -> None:
    before, editor = snapshot(llama), tiny_editor(llama, rounds=5, margin=50.0)
    logits = llama.model(input_ids=torch.tensor([[3, 4, 5]])).logits
    calls: list[tuple[str, int, int]] = []

    def progress(stage: str, done: int, total: int) -> None:
        calls.append((stage, done, total))
        if len(calls) == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        compute_statistics(llama, editor, FACTS, progress=progress)
    assert [(stage, total) for stage, _, total in calls] == [("editing", 2 * len(FACTS))] * 2
    assert_untouched(llama, before)
    assert torch.equal(llama.model(input_ids=torch.tensor([[3, 4, 5]])).logits, logits)


def test_statistics_are_of_the_base_also_under_a_version(llama: BaseModel) -> None:
    editor = tiny_editor(llama, rounds=2)
    plain = compute_statistics(llama, editor, FACTS)
    with llama.version(solve(editor, plain)).active():
        assert compute_statistics(llama, editor, FACTS).digest == plain.digest


def broken(statistics: Statistics, value: float, *, keys: bool) -> Statistics:
    name = next(iter(statistics.modules))
    rows = statistics.modules[name]
    new = Rows(rows.keys_TU.clone(), rows.differences_TV.clone())
    (new.keys_TU if keys else new.differences_TV)[0, 0] = value
    return replace(statistics, modules={**statistics.modules, name: new})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("keys", [True, False])
def test_statistics_that_are_not_finite_are_not_solved(
    llama: BaseModel, editor: Editor, value: float, keys: bool
) -> None:
    statistics = compute_statistics(llama, editor, FACTS)
    with pytest.raises(NotFiniteError):
        solve(editor, broken(statistics, value, keys=keys))


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_model_that_overflows_is_said(rounds: int) -> None:
    base = tiny_base(dtype=torch.float32)
    editor = tiny_editor(base, rounds=rounds)
    with torch.no_grad():
        base.model.model.layers[0].mlp.up_proj.weight.fill_(torch.inf)
    with pytest.raises(NotFiniteError):
        compute_statistics(base, editor, FACTS)


def test_an_editor_for_another_base_is_refused(llama: BaseModel, editor: Editor) -> None:
    with pytest.raises(EditorMismatch):
        compute_statistics(llama, replace(editor, base_digest="sha256:other"), FACTS)


def test_facts_that_cannot_be_edited_are_named(llama: BaseModel, editor: Editor) -> None:
    with pytest.raises(FactError) as none:
        compute_statistics(llama, editor, [])
    assert none.value.field == "/facts"
    with pytest.raises(PromptTooLong) as long:
        compute_statistics(llama, editor, [FACTS[0], Fact("The river flows " * CONTEXT, "Lima")])
    assert long.value.field == "/facts/1/prompt"
    for empty in (Fact("", "Lima"), Fact("The river flows to ", "")):
        with pytest.raises(FactError) as nothing:
            compute_statistics(llama, editor, [FACTS[0], empty])
        assert nothing.value.field == "/facts/1"


@pytest.mark.parametrize("group", [2, 32], ids=["several groups", "one group"])
def test_facts_have_their_margins_with_the_prior_of_their_number(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    """Also where a set is not repaired: what is said of its facts is what its delta gives."""
    monkeypatch.setattr("malmen_core.editing.repair.PASSES", 0)
    editor = tiny_editor(llama, rounds=12)
    editor = replace(editor, plan=replace(editor.plan, group=group, prior_growth=200.0))
    inputs = next(iter(editor.network.shapes.values()))[0]
    assert editor.plan.prior_factor(2, inputs) < editor.plan.prior_factor(len(FACTS), inputs)
    found = edit(llama, editor, FACTS)
    with llama.version(solve(editor, found.statistics)).active():
        scores = teacher_forced(llama, edit_prompts(llama, FACTS).sequences)
    margins = [float(score.margin_A.min()) for score in scores]
    assert [outcome.margin for outcome in found.outcomes] == pytest.approx(margins, abs=1e-3)


def test_a_group_is_edited_with_the_prior_of_its_number(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tiny_editor(llama, rounds=2)
    editor = replace(editor, plan=replace(editor.plan, prior_growth=200.0))
    seen: list[Regulariser] = []

    def spy(keys_TU: torch.Tensor, regulariser: Regulariser, at: At) -> torch.Tensor:
        seen.append(regulariser)
        return projector(keys_TU, regulariser, at)

    monkeypatch.setattr("malmen_core.editing.group.projector", spy)
    compute_statistics(llama, editor, FACTS)
    expected = list(editor.regularisers_of(len(FACTS)).values())
    assert len(seen) == 2 * len(expected)  # to refine with, and to weigh what came of it
    for found, wanted in zip(seen, 2 * expected, strict=True):
        torch.testing.assert_close(found.matrix_UU, wanted.matrix_UU)

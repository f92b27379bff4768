"""Editing end to end in algebra: statistics and deltas do not depend on how they were computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from malmen_core.editing import edit as edit_module
from malmen_core.editing.capture import capture
from malmen_core.editing.edit import edit, rows_of, solve
from malmen_core.editing.editor import Editor
from malmen_core.editing.gauss_newton import Solution, solve_rounds
from malmen_core.editing.goals import Goals, edit_goals, question_goals
from malmen_core.editing.hypernetwork import predict
from malmen_core.editing.statistics import Rows, Statistics, to_storage
from malmen_core.errors import EditorMismatch, FactError, NotFiniteError, PromptTooLong
from malmen_core.facts import Fact, LocalityPrompt
from malmen_core.generation import chat
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import teacher_forced
from malmen_core.models.tokenization import Encoded, KeyPosition
from tests.malmen_core.models.test_overlay import delta
from tests.malmen_core.support import (
    CHAT,
    CONTEXT,
    FACTS,
    assert_untouched,
    snapshot,
    solved,
    statistics_of,
    tiny_base,
    tiny_editor,
)


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float = 1e-6) -> None:
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=atol)


def margins(base: BaseModel, editor: Editor) -> list[float]:
    """Smallest margin of each fact under the version that the editor makes of FACTS."""
    with base.version(solve(base, editor, statistics_of(base, editor, FACTS))).active():
        scores = teacher_forced(base, edit_goals(base, FACTS).sequences)
    return [float(score.margin_A.min()) for score in scores]


@pytest.mark.parametrize("rounds", [0, 4])
@pytest.mark.parametrize("batch_tokens", [1, 30])
def test_any_batch_gives_the_same_delta(llama: BaseModel, rounds: int, batch_tokens: int) -> None:
    editor = tiny_editor(llama, rounds=rounds)
    whole = statistics_of(llama, editor, FACTS)
    parts = statistics_of(llama, editor, FACTS, batch_tokens=batch_tokens)
    close(solved(llama, editor, whole), solved(llama, editor, parts), atol=1e-3 if rounds else 1e-6)
    assert statistics_of(llama, editor, FACTS).digest == whole.digest


@pytest.mark.parametrize(("where", "neighbours"), [("subject", 0), ("subject", 4), ("answer", 0)])
def test_order_and_grouping_of_facts_do_not_matter(
    base: BaseModel, where: KeyPosition, neighbours: int
) -> None:
    editor = tiny_editor(base, where=where, neighbours=neighbours)

    def edited(*groups: Sequence[Fact]) -> dict[str, torch.Tensor]:
        return solved(base, editor, Statistics.sum([statistics_of(base, editor, g) for g in groups]))

    whole = edited(FACTS)
    assert all(change.abs().max() > 1e-3 for change in whole.values())
    close(edited(FACTS[::-1]), whole)
    close(edited(FACTS[:2], FACTS[2:]), whole)
    close(edited(*[[fact] for fact in FACTS[::-1]]), whole)


def test_a_fact_s_rows_know_nothing_of_other_facts_in_a_single_shot(llama: BaseModel) -> None:
    editor = tiny_editor(llama)
    together, alone = (statistics_of(llama, editor, facts) for facts in (FACTS, FACTS[1:2]))
    for name, rows in together.modules.items():
        own = together.fact_T == 1
        torch.testing.assert_close(rows.keys_TU[own], alone.modules[name].keys_TU)
        torch.testing.assert_close(rows.differences_TV[own], alone.modules[name].differences_TV)


def test_withdrawing_a_fact_takes_its_preserved_keys_with_it(llama: BaseModel) -> None:
    editor = tiny_editor(llama, neighbours=4)
    both = statistics_of(llama, editor, FACTS[:2])
    assert [group.facts for group in both.preserved.groups] == [(0,), (1,)]
    alone = statistics_of(llama, editor, FACTS[1:2])
    close(solved(llama, editor, both.without([0])), solved(llama, editor, alone))
    bare = replace(alone, preserved=replace(both.preserved.of(set())))
    assert solved(llama, editor, bare).keys() == solved(llama, editor, alone).keys()
    assert solve(llama, editor, bare).digest != solve(llama, editor, alone).digest


def test_rephrasings_move_the_rows_of_their_fact(llama: BaseModel) -> None:
    editor = tiny_editor(llama, rounds=2)
    plain, more = (statistics_of(llama, editor, FACTS, edit_on_rephrasings=asked) for asked in (False, True))
    assert edit_goals(llama, FACTS, edit_on_rephrasings=True).fact_of == (0, 0, 0, 1, 2, 3, 3, 4)
    assert more.fact_T.tolist() == plain.fact_T.tolist()
    assert more.digest != plain.digest


def test_forms_of_a_fact_share_its_rows_where_they_can() -> None:
    """By hand: two facts, of which a form of the second is edited at another number of positions."""
    text = Encoded((1, 2), 1)
    goals = Goals((text,) * 5, (0, 0, 1, 1, 1))
    goal_N = torch.tensor([0, 1, 2, 2, 3, 4, 4])
    row_N, owner_R, kept_R = rows_of(goals, goal_N)
    assert row_N.tolist() == [0, 0, 1, 2, 3, 1, 2]
    assert owner_R.tolist() == [0, 1, 1, 1]
    assert kept_R.tolist() == [0, 2, 3, 4]


def test_a_version_is_the_least_squares_solution(llama: BaseModel) -> None:
    """From public parts only: capture, the hypernetwork, and a dense solve."""
    editor = tiny_editor(llama)
    seen = capture(llama, edit_goals(llama, FACTS).sequences, "subject")
    guess = predict(editor.network, seen.keys, seen.gradients)
    found = solved(llama, editor, statistics_of(llama, editor, FACTS))
    regularisers = editor.regularisers(llama.device, 1)
    for name, keys in seen.keys.items():
        matrix = keys.T @ keys + regularisers[name].matrix_UU
        expected = torch.linalg.solve(matrix, keys.T @ guess[name])
        # rows are stored in half precision
        torch.testing.assert_close(found[name], expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_facts_are_driven_in(architecture: str) -> None:
    base = tiny_base(architecture, edited=(1, 2))
    before = snapshot(base)
    single_shot, refined = (margins(base, tiny_editor(base, where="answer", rounds=n)) for n in (0, 30))
    assert min(single_shot) < 0 < min(refined)
    assert_untouched(base, before)


def test_subject_keys_move_answers_too(llama: BaseModel) -> None:
    """At one early token of a random model not every fact can be had; together they come closer."""
    single_shot, refined = (margins(llama, tiny_editor(llama, rounds=n)) for n in (0, 30))
    assert sum(refined) > sum(single_shot) + len(FACTS) / 2


def test_what_outcomes_say_holds_in_the_delta(upper: BaseModel) -> None:
    """Also by rows that are stored in half precision."""
    editor = tiny_editor(upper, where="answer", rounds=30)
    found = edit(upper, editor, FACTS)
    with upper.version(solve(upper, editor, found.statistics)).active():
        scores = teacher_forced(upper, edit_goals(upper, FACTS).sequences)
    margins = [float(score.margin_A.min()) for score in scores]
    assert all(outcome.margin >= editor.plan.margin for outcome in found.outcomes)
    assert min(margins) > 0


def test_no_rows_give_the_empty_delta(llama: BaseModel, editor: Editor) -> None:
    made = statistics_of(llama, editor, FACTS)
    assert solve(llama, editor, made.without(range(len(FACTS)))).modules == {}


def test_progress_counts_up_to_all(upper: BaseModel) -> None:
    told: list[tuple[str, int, int]] = []
    editor = tiny_editor(upper, where="answer", rounds=30)
    statistics_of(upper, editor, FACTS, progress=lambda *step: told.append(step))
    assert told[-1] == ("editing", len(FACTS), len(FACTS))
    assert {(stage, total) for stage, _, total in told} == {("editing", len(FACTS))}
    assert 1 < len(told) <= 31


def test_the_base_is_untouched(base: BaseModel) -> None:
    before, digest = snapshot(base), base.parameters_digest()
    editor = tiny_editor(base, rounds=3, neighbours=3)
    base.version(solve(base, editor, statistics_of(base, editor, FACTS)))
    assert_untouched(base, before)
    assert base.parameters_digest() == digest


class StoppedError(Exception):
    """A caller's own reason to abort."""


def test_an_abort_in_the_middle_leaves_everything_as_it_was(llama: BaseModel) -> None:
    before, editor = snapshot(llama), tiny_editor(llama, rounds=5, margin=50.0)
    logits = llama.model(input_ids=torch.tensor([[3, 4, 5]])).logits
    calls: list[str] = []

    def progress(stage: str, done: int, total: int) -> None:
        calls.append(stage)
        if len(calls) == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        statistics_of(llama, editor, FACTS, progress=progress)
    assert calls == ["editing"] * 2
    assert_untouched(llama, before)
    assert torch.equal(llama.model(input_ids=torch.tensor([[3, 4, 5]])).logits, logits)


def test_statistics_are_of_the_base_also_under_a_version(llama: BaseModel) -> None:
    editor = tiny_editor(llama, rounds=2, neighbours=3)
    holding = replace(FACTS[0], locality=(LocalityPrompt("The capital of Peru is", hold=True),))
    facts = [holding, *FACTS[1:]]
    plain = statistics_of(llama, editor, facts)
    with llama.version(delta(llama, 3, size=0.5)).active():
        assert statistics_of(llama, editor, facts).digest == plain.digest


def test_rows_are_stored_as_they_are_solved_with(llama: BaseModel) -> None:
    made = statistics_of(llama, tiny_editor(llama, rounds=2), FACTS)
    for rows in made.modules.values():
        for kept in (rows.keys_TU, rows.differences_TV):
            assert torch.equal(to_storage(kept), kept)


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
    statistics = statistics_of(llama, editor, FACTS)
    with pytest.raises(NotFiniteError):
        solve(llama, editor, broken(statistics, value, keys=keys))


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_model_that_overflows_is_said(rounds: int) -> None:
    base = tiny_base(dtype=torch.float32)
    editor = tiny_editor(base, rounds=rounds)
    with torch.no_grad():
        base.model.model.layers[0].mlp.up_proj.weight.fill_(torch.inf)
    with pytest.raises(NotFiniteError):
        statistics_of(base, editor, FACTS)


def test_an_editor_for_another_base_is_refused(llama: BaseModel, editor: Editor) -> None:
    with pytest.raises(EditorMismatch):
        edit(llama, replace(editor, base_digest="sha256:other"), FACTS)


def test_facts_that_cannot_be_edited_are_named(llama: BaseModel, editor: Editor) -> None:
    with pytest.raises(FactError) as none:
        edit(llama, editor, [])
    assert none.value.field == "/facts"
    with pytest.raises(PromptTooLong) as long:
        edit(llama, editor, [FACTS[0], Fact("The river flows " * CONTEXT, "Lima")])
    assert long.value.field == "/facts/1/prompt"
    for empty in (Fact("", "Lima"), Fact("The river flows to ", "")):
        with pytest.raises(FactError) as nothing:
            edit(llama, editor, [FACTS[0], empty])
        assert nothing.value.field == "/facts/1"


class Rounds:
    """What `solve_rounds` was asked, and what it found."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.found: list[Solution] = []
        monkeypatch.setattr(edit_module, "solve_rounds", self)

    def __call__(self, _base: BaseModel, _editor: Editor, *asked: Any, **options: Any) -> Solution:
        self.asked.append(asked)
        self.found.append(solve_rounds(_base, _editor, *asked, **options))
        return self.found[-1]


def test_a_question_that_is_not_answered_becomes_a_goal_of_the_rows_of_its_fact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = tiny_base("llama", edited=(1, 2))
    base.tokenizer.chat_template = CHAT
    editor = tiny_editor(base, rounds=3)
    facts = [FACTS[1], replace(FACTS[0], question="What about France?"), replace(FACTS[3], question="Who?")]
    rounds = Rounds(monkeypatch)
    made = statistics_of(base, editor, facts)
    (prompts, row_N, _, wanted_Q), (both, both_N, start, both_Q) = rounds.asked
    goal = question_goals(base, facts, [1, 2])  # the other does not name its subject
    assert goal.fact_of == (1,)
    assert base.task.text(base.tokenizer, list(goal.sequences[0].answer)) == "The capital of France is Lima"
    assert both == [*prompts, *goal.sequences]
    assert both_N.tolist() == [*row_N.tolist(), row_N.tolist()[1]]
    assert both_Q.tolist() == [*wanted_Q.tolist(), editor.plan.margin / 2]
    assert start is rounds.found[0].rows
    for name, rows in rounds.found[1].rows.items():
        torch.testing.assert_close(made.modules[name].differences_TV, to_storage(rows.differences_RV))


def test_a_question_that_is_answered_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("llama", edited=(1, 2))
    base.tokenizer.chat_template = CHAT
    said = base.tokenizer(" Lima, of course", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(chat, "greedy_answers", lambda _base, prompts, _lengths: [said] * len(prompts))
    rounds = Rounds(monkeypatch)
    statistics_of(base, tiny_editor(base, rounds=3), [replace(FACTS[0], question="What about France?")])
    assert len(rounds.asked) == 1

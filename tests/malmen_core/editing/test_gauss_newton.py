"""The rounds: the least change of value differences that gives the odds that are missing, by directions of H."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from malmen_core.editing import gauss_newton as module
from malmen_core.editing.capture import Captured, capture
from malmen_core.editing.edit import edit, rows_of, solve
from malmen_core.editing.editor import Editor
from malmen_core.editing.gauss_newton import FreeRows, Solution, solve_rounds
from malmen_core.editing.goals import edit_goals
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.editing.ridge import Ridge
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import SURE
from malmen_core.models.tokenization import Encoded
from tests.malmen_core.support import (
    FACTS,
    assert_untouched,
    smallest_margins,
    snapshot,
    statistics_of,
    tiny_base,
    tiny_editor,
)

FAR = 1e9
TWIN = Fact(FACTS[0].prompt, "Ana", FACTS[0].subject)


def planned(base: BaseModel, **changes: Any) -> Editor:
    """An editor of answer keys with a plan of its own."""
    editor = tiny_editor(base, where="answer", rounds=30)
    return replace(editor, plan=replace(editor.plan, **changes))


def at_rest(base: BaseModel, editor: Editor, goals: Sequence[Encoded]) -> dict[str, FreeRows]:
    keys = capture(base, goals, editor.plan.where).keys
    forms = editor.regularisers(base.device, 1)
    return {
        name: FreeRows.at_rest(
            Ridge.of(keys[name], forms[name], editor.plan.noise), m.shape[1], editor.scales[name]
        )
        for name, m in base.modules.items()
    }


def wanting(count: int, margin: float) -> Tensor:
    """The same margin for so many goals."""
    return torch.full((count,), margin, dtype=torch.float64)


def rounds(
    base: BaseModel, editor: Editor, facts: Sequence[Fact] = FACTS, rows: Any = None, **options: Any
) -> Solution:
    """All rows of some facts, from rest."""
    goals = edit_goals(base, facts)
    goal_N = capture(base, goals.sequences, editor.plan.where).sequence_T
    start = at_rest(base, editor, goals.sequences) if rows is None else rows
    row_N = rows_of(goals, goal_N)[0]
    wanted_Q = wanting(len(goals.sequences), editor.plan.margin)
    return solve_rounds(base, editor, goals.sequences, row_N, start, wanted_Q, **options)


def shifts_of(rows: Any) -> dict[str, Tensor]:
    return {name: each.shift_UV for name, each in rows.items()}


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_what_falls_short_gets_the_margin(architecture: str) -> None:
    base = tiny_base(architecture, edited=(1, 2))
    editor, before, told = planned(base), snapshot(base), list[tuple[str, int, int]]()
    sequences = edit_goals(base, FACTS).sequences
    start = at_rest(base, editor, sequences)
    assert float(smallest_margins(base, shifts_of(start), sequences).min()) < 0
    found = rounds(base, editor, rows=start, progress=lambda *step: told.append(step))
    after = smallest_margins(base, shifts_of(found.rows), sequences)
    assert float(found.margin_Q.min()) >= editor.plan.margin
    assert float(after.min()) > 0  # those that had it are held to first order
    assert told[-1] == ("editing", len(sequences), len(sequences))
    assert 1 < len(told) <= editor.plan.rounds + 1
    for name, each in start.items():
        assert torch.equal(each.still_UV, found.rows[name].still_UV)
        assert not each.differences_RV.any()
    assert_untouched(base, before)


def test_nothing_moves_that_has_its_margin_or_without_rounds(llama: BaseModel) -> None:
    for editor in (planned(llama, margin=-FAR), planned(llama, rounds=0)):
        assert not any(each.differences_RV.any() for each in rounds(llama, editor).rows.values())


def test_rows_that_stand_still_are_part_of_the_candidate(upper: BaseModel) -> None:
    """What they give already need not be given again."""
    done, editor = rounds(upper, planned(upper)), planned(upper, margin=0.0)
    assert any(each.differences_RV.any() for each in rounds(upper, editor).rows.values())
    still = {
        name: replace(each, differences_RV=torch.zeros_like(each.differences_RV), still_UV=each.shift_UV)
        for name, each in done.rows.items()
    }
    again = rounds(upper, editor, rows=still)
    assert not any(each.differences_RV.any() for each in again.rows.values())
    assert float(again.margin_Q.min()) > 0


def test_replacing_the_hypernetwork_changes_the_result(upper: BaseModel) -> None:
    """A trained network gives the direction of every round, so it matters after all of them."""
    editor = planned(upper)
    other = replace(editor, network=turned(editor))
    one, two = (edit(upper, each, FACTS) for each in (editor, other))
    assert all(outcome.reason is None for outcome in one.outcomes)
    for name, rows in one.statistics.modules.items():
        mine, theirs = rows.differences_TV, two.statistics.modules[name].differences_TV
        assert float((mine - theirs).norm() / mine.norm()) > 0.05
        assert torch.equal(rows.keys_TU, two.statistics.modules[name].keys_TU)


def turned(editor: Editor) -> HyperNetwork:
    """The editor's network after it has learned something."""
    network = copy.deepcopy(editor.network)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.networks.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    return network.eval().requires_grad_(False)


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Encoded], bool]]:
    """The sequences of each pass, and whether it went backward."""
    passes: list[tuple[list[Encoded], bool]] = []

    def spy(base: BaseModel, sequences: Sequence[Encoded], *rest: Any, **options: Any) -> Captured:
        passes.append((list(sequences), options.get("gradients", True)))
        return capture(base, sequences, *rest, **options)

    monkeypatch.setattr(module, "capture", spy)
    return passes


def test_goals_that_have_their_margin_are_run_again_at_the_end_only(
    upper: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = watched(monkeypatch)
    found = rounds(upper, planned(upper))
    asked = [set(sequences) for sequences, _ in passes]
    assert len(asked[0]) == len(FACTS)
    assert 0 < len(asked[-2]) < len(FACTS)
    assert asked[-2] | asked[-1] == asked[0]
    assert not asked[-2] & asked[-1]
    sequences = edit_goals(upper, FACTS).sequences
    torch.testing.assert_close(found.margin_Q, smallest_margins(upper, shifts_of(found.rows), sequences))


def test_the_last_look_goes_forward_only(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = watched(monkeypatch)
    rounds(llama, planned(llama, margin=FAR, rounds=3))
    assert [backward for _, backward in passes] == [True, True, True, False]
    assert all(len(sequences) == len(FACTS) for sequences, _ in passes)


def test_passes_over_the_model_are_few(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, over all sequences of facts that are hard to have, counted on the model itself."""
    editor = planned(llama, rounds=5)
    rows: list[int] = []
    handle = llama.model.register_forward_pre_hook(
        lambda _m, _args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    passes = watched(monkeypatch)
    try:
        edit(llama, editor, FACTS)
    finally:
        handle.remove()
    forward = sum(rows)
    first = len(FACTS)  # the pass that takes the keys goes backward too
    backward = first + sum(len(sequences) for sequences, back in passes if back)
    assert forward == first + sum(len(sequences) for sequences, _ in passes)
    assert forward + backward <= (2 * editor.plan.rounds + 1) * len(FACTS)


def test_a_pass_that_was_made_is_not_made_again(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = watched(monkeypatch)
    editor = planned(llama, rounds=1)
    given = capture(llama, edit_goals(llama, FACTS).sequences, "answer")
    one = rounds(llama, editor, first=given)
    assert [backward for _, backward in passes] == [False]
    passes.clear()
    two = rounds(llama, editor)
    assert [backward for _, backward in passes] == [True, False]
    for name, each in one.rows.items():
        torch.testing.assert_close(each.differences_RV, two.rows[name].differences_RV)


def test_what_cannot_be_had_is_reported_and_spoils_nothing(upper: BaseModel) -> None:
    """Two answers at one key: at least one is not reached, says why, and the others are answered."""
    editor = planned(upper, rounds=25, step=0.2)
    found = edit(upper, editor, [*FACTS, TWIN])
    reasons = [str(outcome.reason) for outcome in found.outcomes]
    assert "conflicts with fact" in reasons[0] + reasons[5]
    assert not any("conflicts" in reason for reason in reasons[1:5])
    sequences = edit_goals(upper, FACTS).sequences[1:]
    shifts = {n: c.dense(torch.float64) for n, c in solve(upper, editor, found.statistics).modules.items()}
    assert float(smallest_margins(upper, shifts, sequences).min()) > 0
    sizes = [rows.differences_TV.square().mean(1).sqrt() for rows in found.statistics.modules.values()]
    for size_T, name in zip(sizes, found.statistics.modules, strict=True):
        assert float(size_T.max()) <= 1.001 * editor.plan.bound * editor.scales[name]


@pytest.mark.parametrize("where", ["step", "bound"])
def test_rows_keep_to_step_and_bound(llama: BaseModel, where: str) -> None:
    """A step by what it changes at its own key, a row by its own size; both relative to the module's scale."""
    editor = planned(llama, rounds=1, margin=FAR, step=FAR, bound=FAR, damping=0.1)
    free = rounds(llama, editor)
    limit: dict[str, Any] = {where: 1e-3}
    held = rounds(llama, replace(editor, plan=replace(editor.plan, **limit)))
    for name, each in held.rows.items():
        own_RV = each.keys_RU @ each.shift_UV if where == "step" else each.differences_RV
        size = float(own_RV.square().mean(1).sqrt().max()) / editor.scales[name]
        assert size <= (0.01 if where == "step" else 1.001e-3)
        assert float(free.rows[name].differences_RV.norm()) > 10 * float(each.differences_RV.norm())
    if where == "bound":
        largest = max(
            float(each.differences_RV.square().mean(1).sqrt().max()) / editor.scales[name]
            for name, each in held.rows.items()
        )
        assert largest == pytest.approx(1e-3, rel=1e-6)


def one_step(base: BaseModel, editor: Editor, short: list[int]) -> tuple[Tensor, Tensor]:
    """From rest: the odds that each goal lacks, and what one step for some of them gives it, to first order."""
    goals = edit_goals(base, FACTS)
    first = capture(base, goals.sequences, "answer")
    seen = module._Seen(
        base,
        goals.sequences,
        rows_of(goals, first.sequence_T)[0],
        wanting(len(FACTS), editor.plan.margin),
    )
    seen.update(list(range(len(FACTS))), first)
    moved = module._step(editor, at_rest(base, editor, goals.sequences), seen, short)
    gained_Q = torch.zeros(len(FACTS), dtype=torch.float64)
    p_Q = (-first.nll_Q).exp()
    for name, each in moved.items():
        change_NV = first.keys[name] @ each.shift_UV
        rising_N = -(first.gradients[name] * change_NV).sum(1)  # of log p
        gained_Q.index_add_(0, first.sequence_T, rising_N / (1 - p_Q)[first.sequence_T])
    return editor.plan.margin + editor.plan.beyond - seen.odds_Q, gained_Q


@pytest.mark.parametrize("network", ["initial", "trained"])
def test_a_step_gives_the_odds_that_are_missing(llama: BaseModel, network: str) -> None:
    """For all goals at once, whatever the directions; with damping, less of them."""
    editor = planned(llama, step=FAR, bound=FAR, damping=0.0, noise=0.01)
    if network == "trained":
        editor = replace(editor, network=turned(editor))
    missing, gained = one_step(llama, editor, list(range(len(FACTS))))
    torch.testing.assert_close(gained, missing, rtol=1e-5, atol=1e-6)
    damped = replace(editor, plan=replace(editor.plan, damping=0.5))
    _, less = one_step(llama, damped, list(range(len(FACTS))))
    assert float((less - missing).norm()) > 0.05 * float(missing.norm())


def test_goals_that_have_their_odds_are_held_where_they_are(llama: BaseModel) -> None:
    """To first order, a step for one goal changes those of no other."""
    editor = planned(llama, step=FAR, bound=FAR, damping=0.0)
    missing, gained = one_step(llama, editor, [1])
    expected = torch.zeros_like(missing)
    expected[1] = missing[1]
    torch.testing.assert_close(gained, expected, rtol=1e-5, atol=1e-6)


def test_odds_are_those_of_the_whole_answer(llama: BaseModel) -> None:
    sequences = edit_goals(llama, FACTS).sequences
    found = capture(llama, sequences, "answer")
    seen = module._Seen(
        llama, sequences, torch.zeros(len(found.sequence_T), dtype=torch.int64), wanting(len(sequences), 0.0)
    )
    seen.update(list(range(len(sequences))), found)
    p_Q = (-found.nll_Q).exp()
    torch.testing.assert_close(seen.odds_Q, (p_Q / (1 - p_Q)).log())
    assert float(seen.others_Q.min()) > SURE


def test_what_is_run_again_replaces_what_was_seen(llama: BaseModel) -> None:
    sequences = edit_goals(llama, FACTS).sequences
    first = capture(llama, sequences, "answer")
    other = capture(llama, [sequences[0], sequences[2]], "answer")
    again = replace(
        other,
        keys={name: 2 * keys for name, keys in other.keys.items()},
        gradients={name: 3 * gradients for name, gradients in other.gradients.items()},
        margin_Q=torch.tensor([9.0, 8.0], dtype=torch.float64),
    )
    seen = module._Seen(llama, sequences, torch.arange(len(first.sequence_T)), wanting(len(sequences), 8.5))
    seen.update(list(range(len(sequences))), copy.deepcopy(first))
    assert 0 in seen.short
    seen.update([0, 2], again)
    assert seen.margin_Q.tolist() == [9.0, float(first.margin_Q[1]), 8.0, *first.margin_Q[3:].tolist()]
    assert 2 in seen.short
    assert 0 not in seen.short
    twice_N = torch.isin(first.sequence_T, torch.tensor([0, 2]))
    for name, keys in first.keys.items():
        factor = torch.where(twice_N, 2.0, 1.0)[:, None]
        torch.testing.assert_close(seen.keys[name], factor * keys)
        factor = torch.where(twice_N, 3.0, 1.0)[:, None]
        torch.testing.assert_close(seen.gradients[name], factor * first.gradients[name])


def test_an_editor_s_rounds_move_rows_of_keys_on_the_base(llama: BaseModel) -> None:
    """Candidates change the keys that later rounds see, and never those that are stored."""
    editor = tiny_editor(llama, where="answer", rounds=8)
    base_keys = capture(llama, edit_goals(llama, FACTS, closed=True).sequences, "answer").keys
    for name, rows in statistics_of(llama, editor, FACTS).modules.items():
        torch.testing.assert_close(rows.keys_TU.double(), base_keys[name], rtol=1e-2, atol=1e-3)

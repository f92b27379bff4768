"""Gauss-Newton steps: the least change of value differences that gives the margins that are missing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from malmen_core.editing import gauss_newton as module
from malmen_core.editing.capture import Answered, Captured, capture, capture_odds
from malmen_core.editing.gauss_newton import Goal, Movable, least_change
from malmen_core.editing.prompts import edit_prompts
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import answer_logits
from malmen_core.models.overlay import EditedModule, Weights, intercepting
from malmen_core.models.tokenization import Encoded, KeyPosition
from tests.malmen_core.support import FACTS, assert_untouched, smallest_margins, snapshot

FAR = 1e9


def nats(each: float) -> Tensor:
    """The same of every sequence."""
    return torch.tensor(each, dtype=torch.float64)


UNDAMPED = Goal("answer", nats(0.0), nats(0.0), 1.0, 0.0, 1)
GOAL = Goal("answer", nats(0.5), nats(0.75), 1.0, 0.1, 24)


def weights_of(base: BaseModel, rows: dict[str, Movable]) -> Weights:
    return Weights.shifted(base.modules, shifts_of(rows))


def shifts_of(rows: dict[str, Movable]) -> dict[str, Tensor]:
    return {name: each.shift_UV for name, each in rows.items()}


def smallest(base: BaseModel, rows: dict[str, Movable]) -> Tensor:
    """Smallest margin of each fact's prompt with some rows."""
    return smallest_margins(base, shifts_of(rows), edit_prompts(base, FACTS).sequences)


def movable(
    base: BaseModel, step: float = FAR, bound: float = FAR, where: KeyPosition = "subject"
) -> dict[str, Movable]:
    """Rows of FACTS, with what a ridge regression's projector would be, and another shift below."""
    captured, _ = capture(base, edit_prompts(base, FACTS).sequences, where)
    draw = torch.Generator().manual_seed(3)
    rows = {}
    for name, each in captured.items():
        left_UR = torch.linalg.pinv(each.keys_TU.double(), rtol=1e-3)
        outputs = base.modules[name].shape[1]
        still_UV = 1e-3 * torch.randn(len(left_UR), outputs, dtype=torch.float64, generator=draw)
        zero_RV = torch.zeros(left_UR.shape[1], outputs, dtype=torch.float64)
        rows[name] = Movable(left_UR, zero_RV, still_UV, bound, step)
    return rows


def seen_once(rows: dict[str, Movable], found: Answered) -> Any:
    """All sequences, run once."""
    made = module._Seen(rows, len(found.odds_Q))
    made.update(list(range(len(found.odds_Q))), found)
    return made


def answered(captured: dict[str, Captured], sequence_T: Tensor) -> Answered:
    """Some captured rows, of sequences with no odds to speak of."""
    zero_Q = torch.zeros(int(sequence_T.max()) + 1, dtype=torch.float64)
    return Answered(captured, sequence_T, zero_Q, zero_Q)


class Nudged:
    """Runs modules with weights, and adds what gradients are asked for to what one of them gives."""

    def __init__(self, weights: Weights, name: str) -> None:
        self.weights, self.name = weights, name
        self.nudge = torch.empty(0)

    def __call__(self, module: EditedModule, inputs: Tensor) -> Tensor:
        output = self.weights(module, inputs)
        if module.name == self.name:
            self.nudge = torch.zeros_like(output).requires_grad_()
            output = output + self.nudge
        return output


def test_gradients_are_those_of_the_log_odds(llama: BaseModel) -> None:
    rows = movable(llama)
    weights = weights_of(llama, rows)
    sequences = edit_prompts(llama, FACTS).sequences
    found = capture_odds(llama, weights, sequences, "answer")
    torch.testing.assert_close(found.margins_Q, smallest(llama, rows))
    for name in llama.modules:
        for i, sequence in enumerate(sequences):
            batch, run = llama.task.collate(llama, sequences, [i]), Nudged(weights, name)
            with intercepting(run):
                logits_AX = answer_logits(llama, batch)
            answer = logits_AX.softmax(1).gather(1, batch.answer_A[:, None]).prod()
            odds = (answer / (1 - answer)).log()
            torch.testing.assert_close(found.odds_Q[i], odds.detach().double())
            (expected,) = torch.autograd.grad(odds, run.nudge)
            columns = list(sequence.key_positions("answer"))
            found_TV = found.captured[name].gradients_TV[found.sequence_T == i]
            torch.testing.assert_close(found_TV, expected[0, columns], rtol=1e-5, atol=1e-9)


def test_subject_keys_come_with_the_tokens_that_answer(llama: BaseModel) -> None:
    sequences = edit_prompts(llama, FACTS).sequences
    found = capture_odds(llama, weights_of(llama, movable(llama)), sequences, "subject")
    wanted = [len({*s.key_positions("subject"), *s.key_positions("answer")}) for s in sequences]
    assert torch.bincount(found.sequence_T).tolist() == wanted
    assert max(wanted) > 1


@pytest.mark.parametrize("block", [2, 100])
def test_a_step_is_the_least_that_gives_what_is_missing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Against the pseudo-inverse of the whole Jacobian."""
    monkeypatch.setattr(module, "BLOCK", block)
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=draw)

    shapes, sequence_T = {"a": (7, 5), "b": (6, 4)}, torch.tensor([0, 0, 1, 2, 2])
    captured = {n: Captured(random(5, u), random(5, v)) for n, (u, v) in shapes.items()}
    rows = {n: Movable(random(u, 3), random(3, v), random(u, v), FAR, FAR) for n, (u, v) in shapes.items()}
    missing_Q = random(3)
    blocks = []
    for name, each in captured.items():
        by_TRV = (each.keys_TU @ rows[name].left_UR)[:, :, None] * each.gradients_TV[:, None]
        blocks.append(
            torch.zeros(3, *by_TRV.shape[1:], dtype=torch.float64).index_add_(0, sequence_T, by_TRV)
        )
    whole = torch.cat([block.flatten(1) for block in blocks], 1)
    expected = torch.linalg.pinv(whole) @ missing_Q
    known = seen_once(rows, answered(captured, sequence_T))
    torch.testing.assert_close(known.gram_QQ, whole @ whole.T)
    made = module._step(UNDAMPED, rows, known, missing_Q)
    found = torch.cat([(made[n].differences_RV - rows[n].differences_RV).flatten() for n in shapes])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    # of all D that give the same, the smallest
    had = torch.cat([rows[n].differences_RV.flatten() for n in shapes])
    least = torch.linalg.pinv(whole) @ (whole @ had + missing_Q)
    made = module._step(replace(UNDAMPED, whole=True), rows, known, missing_Q)
    found = torch.cat([made[n].differences_RV.flatten() for n in shapes])
    torch.testing.assert_close(found, least, rtol=1e-6, atol=1e-9)
    assert found.norm() < (had + expected).norm()


def test_what_falls_short_gets_the_margin(llama: BaseModel) -> None:
    before, rows = snapshot(llama), movable(llama, 0.1, where="answer")
    sequences = edit_prompts(llama, FACTS).sequences
    start = smallest(llama, rows)
    told: list[tuple[str, int, int]] = []
    found = least_change(llama, GOAL, rows, sequences, lambda *args: told.append(args))
    after = smallest(llama, found)
    assert float(start.min()) < 0 < float(GOAL.margin_Q) <= float(after.min())
    assert told[-1] == ("editing", len(sequences), len(sequences))
    assert 1 < len(told) < GOAL.rounds
    for name, each in rows.items():
        assert torch.equal(each.still_UV, found[name].still_UV)
    assert_untouched(llama, before)


@pytest.mark.parametrize("goal", [replace(GOAL, margin_Q=nats(-FAR)), replace(GOAL, rounds=0)])
def test_nothing_moves_that_has_its_margin_or_without_rounds(llama: BaseModel, goal: Goal) -> None:
    rows = movable(llama)
    found = least_change(llama, goal, rows, edit_prompts(llama, FACTS).sequences)
    assert all(torch.equal(rows[name].differences_RV, found[name].differences_RV) for name in rows)


def test_half_the_way_is_half_a_step(llama: BaseModel) -> None:
    rows, sequences = movable(llama), edit_prompts(llama, FACTS).sequences
    once = replace(GOAL, margin_Q=nats(FAR), aim_Q=nats(5.0), rounds=1)
    whole, half = (least_change(llama, replace(once, way=way), rows, sequences) for way in (1.0, 0.5))
    for name, each in whole.items():
        torch.testing.assert_close(half[name].differences_RV, 0.5 * each.differences_RV)
        assert each.differences_RV.any()


def test_each_sequence_goes_for_its_own_odds_and_only_if_it_falls_short(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = edit_prompts(llama, FACTS).sequences[:3]
    rows, step, missing = movable(llama), module._step, []

    def spy(goal: Goal, rows: dict[str, Movable], *seen: Any) -> dict[str, Movable]:
        missing.append(seen[-1])
        return step(goal, rows, *seen)

    monkeypatch.setattr(module, "_step", spy)
    margin_Q = torch.tensor([FAR, -FAR, FAR], dtype=torch.float64)
    aim_Q = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    least_change(llama, replace(GOAL, margin_Q=margin_Q, aim_Q=aim_Q, rounds=1), rows, sequences)
    odds_Q = capture_odds(llama, weights_of(llama, rows), sequences, "answer").odds_Q
    wanted = [float(1.0 - odds_Q[0]), 0.0, float(4.0 - odds_Q[2])]
    assert missing[0].tolist() == pytest.approx(wanted)


def test_what_a_draft_makes_of_a_margin_is_not_taken_for_it(llama: BaseModel) -> None:
    """What is known to have less than this pass says is moved until it says that much more than is wanted."""
    sequences = edit_prompts(llama, FACTS).sequences
    rows = movable(llama, 1.0)
    margins_Q = smallest(llama, rows)
    goal = replace(GOAL, margin_Q=margins_Q - 0.01, aim_Q=margins_Q + 2.0, rounds=20)
    assert least_change(llama, replace(goal, known_Q=margins_Q), rows, sequences) == rows
    assert least_change(llama, replace(goal, known_Q=margins_Q + 0.1), rows, sequences) == rows
    moved = least_change(llama, replace(goal, known_Q=margins_Q - 0.1), rows, sequences)
    assert bool((smallest(llama, moved) >= margins_Q - 0.01 + 0.1).all())


def test_after_a_step_too_far_steps_are_half_as_long(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = edit_prompts(llama, FACTS).sequences
    goal = replace(GOAL, margin_Q=nats(50.0), aim_Q=nats(75.0))
    lacking: list[float] = []
    lengths: list[float] = []
    step = module._step

    def spy(goal: Goal, rows: dict[str, Movable], *seen: Any) -> dict[str, Movable]:
        lacking.append(float((goal.margin_Q - smallest(llama, rows)).sum()))
        lengths.append(next(iter(rows.values())).step)
        return step(goal, rows, *seen)

    monkeypatch.setattr(module, "_step", spy)
    least_change(llama, goal, movable(llama, 1.0), sequences)
    halved = [after / before for before, after in pairwise(lengths)]
    assert halved == [0.5 if after > before else 1.0 for before, after in pairwise(lacking)]
    assert halved[0] == 1.0
    assert 0.5 in halved


def test_what_has_its_margin_is_not_run_again(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = edit_prompts(llama, FACTS).sequences[:3]
    script = iter([[-1.0, 1.0, -2.0], [1.0, -1.0], [1.0]])
    asked: list[list[Encoded]] = []

    def scripted(base: BaseModel, weights: Weights, some: list[Encoded], *rest: Any, **how: Any) -> Answered:
        asked.append(some)
        margins_Q = torch.tensor(next(script), dtype=torch.float64)
        return replace(capture_odds(base, weights, some, *rest, **how), margins_Q=margins_Q)

    monkeypatch.setattr(module, "capture_odds", scripted)
    least_change(llama, GOAL, movable(llama, 1.0), sequences)
    assert asked == [list(sequences), [sequences[0], sequences[2]], [sequences[2]]]


@pytest.mark.parametrize(("step", "bound"), [(1e-3, FAR), (FAR, 1e-3)])
def test_rows_keep_to_step_and_bound(llama: BaseModel, step: float, bound: float) -> None:
    rows = movable(llama, step, bound)
    sequences = edit_prompts(llama, FACTS).sequences
    found = capture_odds(llama, weights_of(llama, rows), sequences, "subject")
    missing_Q = torch.ones(len(sequences), dtype=torch.float64)
    made = module._step(GOAL, rows, seen_once(rows, found), missing_Q)
    for name, each in made.items():
        moved_R = (each.differences_RV - rows[name].differences_RV).square().mean(1).sqrt()
        assert 0.9e-3 < float(moved_R.max()) <= 1.0001e-3


def test_what_cannot_be_told_apart_is_damped() -> None:
    """Two sequences of one gradient that want opposite things get nothing, not infinitely much."""
    captured = {"a": Captured(torch.ones(2, 3).double(), torch.ones(2, 2).double())}
    rows = {
        "a": Movable(torch.eye(3).double(), torch.zeros(3, 2).double(), torch.zeros(3, 2).double(), FAR, FAR)
    }
    known = seen_once(rows, answered(captured, torch.tensor([0, 1])))
    for missing, wanted in (((1.0, -1.0), 0.0), ((1.0, 1.0), 1 / 2.1), ((1.0, 1.2), 1.1 / 2.1)):
        made = module._step(GOAL, rows, known, torch.tensor(missing, dtype=torch.float64))
        rise = float((captured["a"].keys_TU[0] @ made["a"].shift_UV) @ captured["a"].gradients_TV[0])
        assert rise == pytest.approx(2 * wanted, abs=1e-6)


@pytest.mark.parametrize("block", [1, 100])
def test_what_is_run_again_replaces_what_was_seen(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=draw)

    def passed(*odds: float) -> Answered:
        odds_Q = torch.tensor(odds, dtype=torch.float64)
        number_T = torch.arange(len(odds)).repeat_interleave(2)
        captured = {name: Captured(random(len(number_T), 4), random(len(number_T), 3)) for name in "ab"}
        return Answered(captured, number_T, odds_Q, 2 * odds_Q)

    rows = {name: Movable(random(4, 5), random(5, 3), random(4, 3), FAR, FAR) for name in "ab"}
    known, first, again = module._Seen(rows, 3), passed(1.0, 1.0, 1.0), passed(5.0, 5.0)
    whole = {
        name: Captured(
            torch.cat([new.keys_TU[:2], old.keys_TU[2:4], new.keys_TU[2:]]),
            torch.cat([new.gradients_TV[:2], old.gradients_TV[2:4], new.gradients_TV[2:]]),
        )
        for (name, old), new in zip(first.captured.items(), again.captured.values(), strict=True)
    }
    for captured, others in ((first.captured, 4), (again.captured, 2), (whole, 4)):
        captured["b"].keys_TU[others:] = 0.0  # rows of another stack
    known.update([0, 1, 2], first)
    known.update([0, 2], again)
    assert known.odds_Q.tolist() == [5.0, 1.0, 5.0]
    assert known.margins_Q.tolist() == [10.0, 2.0, 10.0]
    for name, each in whole.items():
        assert torch.equal(known.captured[name].keys_TU, each.keys_TU)
        assert torch.equal(known.captured[name].gradients_TV, each.gradients_TV)
    fresh = seen_once(rows, answered(whole, known.sequence_T))
    torch.testing.assert_close(known.gram_QQ, fresh.gram_QQ)
    assert known.rows("a")[2].tolist() == [0, 0, 1, 1, 2, 2]
    assert known.rows("b")[2].tolist() == [0, 0, 1, 1]
    assert (known.short(nats(3.0)), known.short(nats(1.0))) == ([1], [])
    assert known.short(torch.tensor([20.0, 1.0, 10.0], dtype=torch.float64)) == [0]

"""How far facts are pushed, and in how many rounds: Gauss-Newton steps in value differences.

At a candidate ``W + S(D)`` each goal q (a sequence with its answer) has log-odds ``o_q = log p/(1 - p)`` of its
whole answer, whose gradient at the output of an edited module is ``g``. The hypernetwork turns key and gradient
into a direction ``h = H(k, g)`` (at its initial value ``h = g``), and moving goal p's row of `D` by ``μ_p h_p``
changes the odds of goal q, to first order, by

    J_qp μ_p,        J = Σ_modules R ∘ (G H'),

where ``R_qp = x_q P`` is what row p of `D` does at goal q's key. One small system, ``(J + δ diag J) μ = r``, so
finds how far each fact must go for all of them to have the odds r that they lack; δ damps what cannot be told
apart (Levenberg 1944, Marquardt 1963). Goals that have their margin are held where they are, to first order,
and run again when no goal is short or one step is left: those that lost it meanwhile are moved again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from malmen_core.editing.capture import Captured, capture
from malmen_core.editing.editor import Editor
from malmen_core.editing.ridge import Ridge
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import SURE
from malmen_core.models.overlay import Weights
from malmen_core.models.tokenization import Encoded

Progress = Callable[[str, int, int], None]
"""Told a stage, how much of it is done, and how much there is."""
TINY = 1e-9


@dataclass(frozen=True)
class FreeRows:
    """One module's rows that may move; all else stands still.

    Attributes:
        keys_RU: their keys.
        projector_UR: the columns of ``P`` at these rows; float64.
        differences_RV: their `D`; float64.
        still_UV: the shift of all other rows; float64.
        scale: root mean square of the module's output at edited tokens.
    """

    keys_RU: Tensor
    projector_UR: Tensor
    differences_RV: Tensor
    still_UV: Tensor
    scale: float

    @classmethod
    def at_rest(cls, ridge: Ridge, outputs: int, scale: float) -> FreeRows:
        """All rows of an equation, with a `D` of zero and V outputs."""
        zero_RV = ridge.keys_TU.new_zeros(len(ridge.keys_TU), outputs)
        still_UV = ridge.keys_TU.new_zeros(ridge.keys_TU.shape[1], outputs)
        return cls(ridge.keys_TU, ridge.projector(), zero_RV, still_UV, scale)

    @property
    def shift_UV(self) -> Tensor:
        """``S``."""
        return self.still_UV + self.projector_UR @ self.differences_RV


@dataclass(frozen=True)
class Solution:
    """What the rounds came to.

    Attributes:
        rows: by module, with their `D`.
        margin_Q: of each goal, when it was run last; float64, on the CPU.
    """

    rows: Mapping[str, FreeRows]
    margin_Q: Tensor


def solve_rounds(
    base: BaseModel,
    editor: Editor,
    goals: Sequence[Encoded],
    row_N: Tensor,
    rows: Mapping[str, FreeRows],
    wanted_Q: Tensor,
    *,
    first: Captured | None = None,
    progress: Progress | None = None,
    batch_tokens: int | None = None,
) -> Solution:
    """Move rows until every goal has its margin, or the rounds are spent.

    Args:
        base: the immutable base.
        editor: whose plan says how, and whose network gives the directions.
        goals: sequences with answers.
        row_N: the row that each edited position of the goals moves, in the order of `Captured`; int64.
        rows: by module.
        wanted_Q: by how many nats each goal's answer tokens are to beat all others; float64.
        first: what a pass with gradients over all goals found at these rows, if there was one.
        progress: told ``("editing", goals that have their margin, goals)`` in each round; may raise to abort.
        batch_tokens: padded tokens of a batch at most.
    """
    plan, rows = editor.plan, dict(rows)
    seen = _Seen(base, goals, row_N, wanted_Q)
    still = _still_weights(base, rows)
    best, least = Solution(rows, seen.margin_Q), math.inf
    for number in range(plan.rounds + 1):
        last = number == plan.rounds
        due = seen.short
        if not due or number == plan.rounds - 1:
            due = sorted({*due, *seen.stale})
        found = first if number == 0 else None
        if found is None:
            asked, weights = [goals[i] for i in due], _weights(base, rows, still)
            found = capture(
                base, asked, plan.where, weights=weights, gradients=not last, batch_tokens=batch_tokens
            )
        seen.update(due, found)
        short = seen.short
        if progress is not None:
            progress("editing", len(goals) - len(short), len(goals))
        lacking = float((seen.wanted_Q - seen.margin_Q).clamp_min(0).sum())
        if lacking < least or rows is best.rows:
            best, least = Solution(rows, seen.margin_Q.cpu()), lacking
        if last or not (short or seen.stale):
            break
        if short:
            rows = _step(editor, rows, seen, short)
            seen.moved_on()
    return best


def weights_at(base: BaseModel, rows: Mapping[str, FreeRows]) -> Weights:
    """The weights with which the model runs at these rows, to be seen and not kept."""
    return _weights(base, rows, _still_weights(base, rows))


def _still_weights(base: BaseModel, rows: Mapping[str, FreeRows]) -> dict[str, Tensor]:
    """The weights without the rows that move, by module: U × V, float32 at least."""
    wide = torch.promote_types(base.dtype, torch.float32)
    weights = {name: base.modules[name].weight_UV for name in rows}
    return {
        name: (weight.double() + rows[name].still_UV.to(weight.device)).to(wide)
        for name, weight in weights.items()
    }


def _weights(base: BaseModel, rows: Mapping[str, FreeRows], still: Mapping[str, Tensor]) -> Weights:
    """The weights at these rows; summed in float32, since only the rounds are seen at them."""
    sums = {}
    for name, still_UV in still.items():
        projector_UR, differences_RV = (
            part.to(still_UV) for part in (rows[name].projector_UR, rows[name].differences_RV)
        )
        sums[name] = torch.addmm(still_UV, projector_UR, differences_RV).to(base.dtype)
    return Weights(sums)


class _Seen:
    """What was captured of each goal when it was run last."""

    def __init__(self, base: BaseModel, goals: Sequence[Encoded], row_N: Tensor, wanted_Q: Tensor) -> None:
        self.row_N, self.wanted_Q = row_N.to(base.device), wanted_Q.to(base.device)
        self.nll_Q, self.margin_Q = torch.full((2, len(goals)), -torch.inf, dtype=torch.float64).to(
            base.device
        )
        self.keys: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.goal_N = torch.zeros(0, dtype=torch.int64)
        self.stale_Q = torch.zeros(len(goals), dtype=torch.bool)

    @property
    def stale(self) -> list[int]:
        """Goals that were not run at these rows."""
        found: list[int] = self.stale_Q.nonzero()[:, 0].tolist()
        return found

    def moved_on(self) -> None:
        """The rows have changed."""
        self.stale_Q[:] = True

    @property
    def short(self) -> list[int]:
        """Goals that had not their margin when they were run last."""
        found: list[int] = (self.margin_Q < self.wanted_Q).nonzero()[:, 0].tolist()
        return found

    def update(self, due: Sequence[int], found: Captured) -> None:
        """Take over a pass over the goals that were due, in their order."""
        self.nll_Q[list(due)], self.margin_Q[list(due)] = found.nll_Q, found.margin_Q
        self.stale_Q[list(due)] = False
        if not self.keys:  # the first time, all are due
            self.keys, self.gradients = dict(found.keys), dict(found.gradients)
            self.goal_N = found.sequence_T
            return
        again_N = torch.isin(self.goal_N, torch.tensor(due, device=self.goal_N.device))
        for name, gradients in found.gradients.items():
            self.keys[name][again_N], self.gradients[name][again_N] = found.keys[name], gradients

    @property
    def others_Q(self) -> Tensor:
        """``1 - p`` of each goal's answer."""
        others_Q: Tensor = (-torch.expm1(-self.nll_Q)).clamp_min(SURE)
        return others_Q

    @property
    def odds_Q(self) -> Tensor:
        """``log p/(1 - p)``."""
        odds_Q: Tensor = -self.nll_Q - self.others_Q.log()
        return odds_Q


def _step(
    editor: Editor, rows: Mapping[str, FreeRows], seen: _Seen, short: Sequence[int]
) -> dict[str, FreeRows]:
    """Rows after one Gauss-Newton step towards the odds that are missing."""
    plan, count = editor.plan, len(seen.nll_Q)
    place = next(iter(rows.values())).projector_UR.device
    row_N, goal_N = seen.row_N.to(place), seen.goal_N.to(place)
    per_odds_N = (1 / seen.others_Q).to(place)[goal_N]  # do/dlog p
    J_QQ = torch.zeros(count, count, dtype=torch.float64, device=place)
    directions: dict[str, Tensor] = {}
    moved_Q = torch.zeros(count, dtype=torch.float64, device=place)
    for name, each in rows.items():
        keys_NU = seen.keys[name].to(place, torch.float64)
        gradients_NV = seen.gradients[name]
        own_N = keys_NU.any(1)  # not of another stack
        network_keys = each.keys_RU[row_N.to(each.keys_RU.device)].to(gradients_NV)
        towards_NV = editor.network.direction(name, network_keys, gradients_NV).to(place, torch.float64)
        towards_NV = per_odds_N[:, None] * towards_NV * own_N[:, None]
        rising_NV = -per_odds_N[:, None] * gradients_NV.to(place, torch.float64)
        response_NN = keys_NU @ each.projector_UR[:, row_N]
        effect_NN = response_NN * (rising_NV @ towards_NV.T)
        by_QN = effect_NN.new_zeros(count, len(goal_N)).index_add_(0, goal_N, effect_NN)
        J_QQ.index_add_(1, goal_N, by_QN)
        sizes_N = (response_NN.diagonal()[:, None] * towards_NV).square().mean(1) / each.scale**2
        moved_Q.index_add_(0, goal_N, sizes_N / len(rows))
        directions[name] = towards_NV
    missing_Q = torch.zeros_like(moved_Q)
    missing_Q[list(short)] = (seen.wanted_Q + plan.beyond - seen.odds_Q)[list(short)].to(place)
    diagonal_Q = J_QQ.diagonal()
    damped_QQ = J_QQ + torch.diag(plan.damping * diagonal_Q + TINY * diagonal_Q.mean().clamp_min(TINY))
    length_Q = torch.linalg.solve(damped_QQ, missing_Q)
    usual = plan.margin if plan.margin > 0 else math.inf
    longest_Q = plan.step * (seen.wanted_Q.to(place) / usual).clamp_min(1.0).sqrt()
    length_Q *= (longest_Q / (length_Q.abs() * moved_Q.sqrt()).clamp_min(TINY)).clamp_max(1.0)
    moved = {}
    for name, each in rows.items():
        by_NV = length_Q[goal_N, None] * directions[name]
        differences_RV = each.differences_RV.index_add(0, row_N, by_NV)
        size_R = differences_RV.square().mean(1).sqrt().clamp_min(TINY)
        bounded_RV = differences_RV * (plan.bound * each.scale / size_R).clamp_max(1.0)[:, None]
        moved[name] = replace(each, differences_RV=bounded_RV)
    return moved

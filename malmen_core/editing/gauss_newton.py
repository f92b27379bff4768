"""The least change of value differences after which facts are answered by a margin: Gauss-Newton steps.

At some shift `S = A D` each sequence q has log-odds o_q of its whole answer. Their gradient with respect to
`D` has rank one for each token t of q that counts, with key x_t and gradient g_t: ``∂o_q/∂D = Σ_t (x_t A)'
g_t``. To first order, odds rise by r after the change of least Frobenius norm

    ΔD = Σ_q λ_q ∂o_q/∂D,   (J J' + ε diag(J J')) λ = r,   (J J')_qp = Σ_t Σ_s (C C')_ts (G G')_ts,  C = X A

summed over the modules, for t of q and s of p; ε damps what cannot be told apart (Levenberg 1944,
Marquardt 1963). So what one fact's change does to the others is known before it is made, and a few passes
through the model are enough. What is not run again keeps its rows and columns of ``J J'``. Where the whole of
`D` is to be the least, ``J D`` joins r, and `D` goes towards ``Σ_q λ_q ∂o_q/∂D``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from malmen_core.editing.capture import Answered, Captured, capture_odds
from malmen_core.editing.refinement import Progress
from malmen_core.models.base import BaseModel
from malmen_core.models.overlay import Weights
from malmen_core.models.tokenization import Encoded, KeyPosition

TINY = 1e-9
BLOCK = 2048
"""Tokens whose products with all others are in memory at a time."""
STEP = 0.3
"""By so much may what a module gives at a fact move at a time, relative to its typical output."""
ROUNDS = 24
AIM = 1.5
"""So many margins are gone for, since what other steps disturb is not known to first order."""
DAMPING = 0.1


@dataclass(frozen=True)
class Goal:
    """What is wanted of each sequence, and how it is gone for.

    Attributes:
        where: at which tokens sequences are edited.
        margin_Q: by how many nats every answer token of each sequence is to beat all others; float64.
        aim_Q: log-odds that are gone for; more, where what others disturb is to be outweighed.
        way: share of the way there that a step goes, to first order.
        damping: ε.
        rounds: steps at most.
        whole: the whole change, `D` itself, is to be the least, rather than the sum of the steps.
        known_Q: the margins that the base itself gives at the start, where they were seen; float64. By what
            its draft gives more, which is rounding, it must give more in the end.
    """

    where: KeyPosition
    margin_Q: Tensor
    aim_Q: Tensor
    way: float
    damping: float
    rounds: int
    whole: bool = False
    known_Q: Tensor | None = None


def holding(where: KeyPosition, margin_Q: Tensor, known_Q: Tensor | None = None) -> Goal:
    """To bring sequences to their margins and hold them there, with rows whose step is `STEP`."""
    return Goal(where, margin_Q, AIM * margin_Q, 1.0, DAMPING, ROUNDS, known_Q=known_Q)


@dataclass(frozen=True)
class Movable:
    """One module's rows that may move, and all the rest.

    Attributes:
        left_UR: the projector at these rows, `A`; float64.
        differences_RV: their value differences, `D`; float64.
        still_UV: the shift without them; float64.
        bound: largest magnitude of a row (its root mean square).
        step: by how much a row may move at a time, likewise; further away, margins are not linear.
    """

    left_UR: Tensor
    differences_RV: Tensor
    still_UV: Tensor
    bound: float
    step: float

    @property
    def shift_UV(self) -> Tensor:
        """``S``."""
        return self.still_UV + self.left_UR @ self.differences_RV

    def moved(self, by_RV: Tensor) -> Movable:
        """The same with other differences: moved no further than a step, and not beyond the bound."""
        differences_RV = self.differences_RV + shortened(by_RV, self.step)
        return replace(self, differences_RV=shortened(differences_RV, self.bound))


def least_change(
    base: BaseModel,
    goal: Goal,
    rows: Mapping[str, Movable],
    sequences: Sequence[Encoded],
    progress: Progress | None = None,
    batch_tokens: int | None = None,
) -> dict[str, Movable]:
    """Move rows until every sequence has its margin, or the rounds are spent.

    A sequence that has it is held to it, to first order, and not run again: whether others took it away is
    for the caller to see. After a step that went too far, so that more is lacking than before, steps are half
    as long.

    Args:
        base: the immutable base, whose draft is run.
        goal: what is wanted.
        rows: what may move, by module.
        sequences: prompts with answers, at least one.
        progress: told ``("editing", sequences that have it, sequences)`` in each round; may raise to
            abort.
        batch_tokens: padded tokens of a batch at most.
    """
    rows = dict(rows)
    present = _Present(base, rows)
    margin_Q, seen, lacking = goal.margin_Q, _Seen(rows, len(sequences)), torch.inf
    for number in range(goal.rounds):
        due = seen.short(margin_Q)
        weights, asked = present.weights(rows), [sequences[i] for i in due]
        seen.update(due, capture_odds(base.draft, weights, asked, goal.where, batch_tokens=batch_tokens))
        if number == 0 and goal.known_Q is not None:
            margin_Q = margin_Q + seen.margins_Q - goal.known_Q
        short_Q = seen.margins_Q < margin_Q
        if progress is not None:
            progress("editing", len(sequences) - int(short_Q.sum()), len(sequences))
        if not bool(short_Q.any()):
            break
        before, lacking = lacking, float((margin_Q - seen.margins_Q).clamp_min(0).sum())
        if lacking > before:
            rows = {name: replace(each, step=each.step / 2) for name, each in rows.items()}
        missing_Q = torch.where(short_Q, goal.aim_Q - seen.odds_Q, 0.0)
        rows = _step(goal, rows, seen, missing_Q)
    return rows


class _Present:
    """The edited modules' weights at rows that move; what stands still is added to the base's once.

    Summed in the base's own precision, float32 at least: only the steps are seen at these weights, and in
    float64 the sums take half as long as a pass over one fact.
    """

    def __init__(self, base: BaseModel, rows: Mapping[str, Movable]) -> None:
        self._dtype, exact = base.draft.dtype, torch.promote_types(base.dtype, torch.float32)
        self._still = {}
        for name, each in rows.items():
            weight_UV = base.modules[name].weight_UV
            self._still[name] = weight_UV.to(exact) + each.still_UV.to(weight_UV.device, exact)
        self._left = {name: each.left_UR.to(self._still[name]) for name, each in rows.items()}

    def weights(self, rows: Mapping[str, Movable]) -> Weights:
        """At the differences of these rows."""
        sums = {}
        for name, still_UV in self._still.items():
            moving_RV = rows[name].differences_RV.to(still_UV)
            sums[name] = torch.addmm(still_UV.T, moving_RV.T, self._left[name].T).T.to(self._dtype)
        return Weights(sums)


class _Seen:
    """What was captured of each sequence when it was run last, and how their odds move together: ``J J'``."""

    def __init__(self, rows: Mapping[str, Movable], count: int) -> None:
        self._left = {name: each.left_UR for name, each in rows.items()}
        self.captured: dict[str, Captured] = {}
        self.sequence_T = torch.zeros(0, dtype=torch.int64)
        self.odds_Q = torch.full((count,), -torch.inf, dtype=torch.float64)
        self.margins_Q = self.odds_Q.clone()
        place = next(iter(self._left.values())).device
        self.gram_QQ = torch.zeros(count, count, dtype=torch.float64, device=place)

    def short(self, margin_Q: Tensor) -> list[int]:
        """Sequences that had not their margin when they were run last."""
        found: list[int] = (self.margins_Q < margin_Q).nonzero()[:, 0].tolist()
        return found

    def update(self, due: list[int], found: Answered) -> None:
        """Take over a pass over the sequences that were due, in their order."""
        self.odds_Q[due], self.margins_Q[due] = found.odds_Q, found.margins_Q
        if not self.captured:  # the first time, all are due
            self.captured, self.sequence_T = found.captured, found.sequence_T
        else:
            again_T = torch.isin(self.sequence_T, torch.tensor(due))
            for name, each in found.captured.items():
                self.captured[name].keys_TU[again_T] = each.keys_TU
                self.captured[name].gradients_TV[again_T] = each.gradients_TV
        self._correlate(torch.tensor(due))

    def _correlate(self, due_S: Tensor) -> None:
        """Make the rows and columns of ``J J'`` anew that are of some sequences."""
        self.gram_QQ[due_S] = 0.0
        for name, left_UR in self._left.items():
            keys_TU, gradients_TV, owner_T = self.rows(name)
            for some in torch.split(torch.isin(owner_T, due_S.to(owner_T)).nonzero()[:, 0], BLOCK):
                reach_SU = keys_TU[some] @ left_UR @ left_UR.T
                product_ST = (reach_SU @ keys_TU.T) * (gradients_TV[some] @ gradients_TV.T)
                by_SQ = product_ST.new_zeros(len(some), len(self.gram_QQ)).index_add_(1, owner_T, product_ST)
                self.gram_QQ.index_add_(0, owner_T[some], by_SQ)
        self.gram_QQ[:, due_S] = self.gram_QQ[due_S].T

    def rows(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """One module's own `X` and `G`, and each row's sequence; made when needed, since all would be large.

        Rows of another stack, whose keys are zero, count for nothing, and are left out.
        """
        each, left_UR = self.captured[name], self._left[name]
        own_T = each.keys_TU.any(1)
        own = (each.keys_TU[own_T], each.gradients_TV[own_T])
        keys_TU, gradients_TV = (part.to(left_UR) for part in own)
        return keys_TU, gradients_TV, self.sequence_T[own_T].to(left_UR.device)


def _step(goal: Goal, rows: Mapping[str, Movable], seen: _Seen, missing_Q: Tensor) -> dict[str, Movable]:
    """Rows after one Gauss-Newton step towards the odds that are missing."""
    missing_Q = missing_Q.to(seen.gram_QQ)
    had_Q = torch.zeros_like(missing_Q)
    if goal.whole:
        for name, each in rows.items():
            keys_TU, gradients_TV, owner_T = seen.rows(name)
            given_TV = keys_TU @ (each.left_UR @ each.differences_RV)
            had_Q.index_add_(0, owner_T, (given_TV * gradients_TV).sum(1))
    gram_QQ, diagonal_Q = seen.gram_QQ.clone(), seen.gram_QQ.diagonal()
    gram_QQ.diagonal().add_(goal.damping * diagonal_Q + TINY * diagonal_Q.mean().clamp_min(TINY))
    weight_Q = torch.linalg.solve(gram_QQ, missing_Q + had_Q)
    moved = {}
    for name, each in rows.items():
        keys_TU, gradients_TV, owner_T = seen.rows(name)
        by_RV = each.left_UR.T @ (keys_TU.T @ (weight_Q[owner_T, None] * gradients_TV))
        if goal.whole:
            by_RV -= each.differences_RV
        moved[name] = each.moved(goal.way * by_RV)
    return moved


def shortened(D_TV: Tensor, bound: float) -> Tensor:
    """Rows whose magnitude (root mean square) is within a bound; those that are come back as they are."""
    return D_TV * (bound / _magnitude_T(D_TV)).clamp(max=1.0)[:, None]


def at_bound(D_TV: Tensor, bound: float) -> Tensor:
    """Which rows lie at a bound; T."""
    return _magnitude_T(D_TV) > 0.999 * bound


def _magnitude_T(D_TV: Tensor) -> Tensor:
    return D_TV.square().mean(1).sqrt().clamp_min(1e-30)

"""The least change of value differences after which facts are answered by a margin: Gauss-Newton steps.

At some shift `S = A D` each sequence q has a margin m_q. Its gradient with respect to `D` has rank one for
each token t of q that counts, with key x_t and margin gradient g_t: ``∂m_q/∂D = Σ_t (x_t A)' g_t``. To first
order, margins rise by r after the change of least Frobenius norm

    ΔD = Σ_q λ_q ∂m_q/∂D,   (J J' + ε diag(J J')) λ = r,   (J J')_qp = Σ_t Σ_s (C C')_ts (G G')_ts,  C = X A

summed over the modules, for t of q and s of p; ε damps what cannot be told apart (Levenberg 1944,
Marquardt 1963). So what one fact's change does to the others is known before it is made, and a few passes
through the model are enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from malmen_core.base import BaseModel
from malmen_core.capture import Captured, capture_margins
from malmen_core.overlay import Weights
from malmen_core.refine import Progress, shortened
from malmen_core.tokens import Encoded, KeyPosition

ROUNDS = 24
DAMPING = 0.1
TINY = 1e-9
BLOCK = 2048
"""Tokens whose products with all others are in memory at a time."""
AIM = 1.5
"""So many margins are aimed at, since what other steps disturb is not known to first order."""


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
    where: KeyPosition,
    margin: float,
    rows: Mapping[str, Movable],
    sequences: Sequence[Encoded],
    progress: Progress | None = None,
) -> dict[str, Movable]:
    """Move rows until every sequence has had the margin, or the rounds are spent.

    A sequence that has it is held to it, to first order, and not run again: others may still take it away.

    Args:
        base: the immutable base, whose draft is run.
        where: at which tokens sequences are edited.
        margin: in nats.
        rows: what may move, by module.
        sequences: prompts with answers, at least one.
        progress: told ``("editing", sequences that have the margin, sequences)``; may raise to abort.
    """
    rows = dict(rows)
    seen = _Seen(len(sequences))
    for _ in range(ROUNDS):
        due = (seen.margins_Q < margin).nonzero()[:, 0].tolist()
        weights = Weights.shifted(base.modules, {name: each.shift_UV for name, each in rows.items()})
        seen.update(due, *capture_margins(base.draft, weights, [sequences[i] for i in due], where))
        short_Q = seen.margins_Q < margin
        if progress is not None:
            progress("editing", len(sequences) - int(short_Q.sum()), len(sequences))
        if not bool(short_Q.any()):
            break
        missing_Q = torch.where(short_Q, AIM * margin - seen.margins_Q, 0.0)
        rows = _step(rows, seen.captured, seen.sequence_T, missing_Q)
    return rows


class _Seen:
    """What was captured of each sequence when it was run last."""

    def __init__(self, count: int) -> None:
        self.captured: dict[str, Captured] = {}
        self.sequence_T = torch.zeros(0, dtype=torch.int64)
        self.margins_Q = torch.full((count,), -torch.inf, dtype=torch.float64)

    def update(
        self, due: list[int], captured: Mapping[str, Captured], number_T: Tensor, margins: Sequence[float]
    ) -> None:
        """Take over a pass over the sequences that were due, in their order."""
        self.margins_Q[due] = torch.tensor(margins, dtype=torch.float64)
        if not self.captured:  # the first time, all are due
            self.captured, self.sequence_T = dict(captured), number_T
            return
        again_T = torch.isin(self.sequence_T, torch.tensor(due))
        for name, each in captured.items():
            self.captured[name].keys_TU[again_T] = each.keys_TU
            self.captured[name].gradients_TV[again_T] = each.gradients_TV


def _step(
    rows: Mapping[str, Movable], captured: Mapping[str, Captured], sequence_T: Tensor, missing_Q: Tensor
) -> dict[str, Movable]:
    """Rows after one Gauss-Newton step towards the margins that are missing."""
    count = len(missing_Q)
    gram_QQ = torch.zeros(count, count, dtype=torch.float64)
    for name, each in captured.items():
        reach_TR, gradients_TV = _reach(rows[name], each), each.gradients_TV.double()
        for first in range(0, len(sequence_T), BLOCK):
            some = slice(first, first + BLOCK)
            product_ST = (reach_TR[some] @ reach_TR.T) * (gradients_TV[some] @ gradients_TV.T)
            by_SQ = product_ST.new_zeros(len(product_ST), count).index_add_(1, sequence_T, product_ST)
            gram_QQ.index_add_(0, sequence_T[some], by_SQ)
    diagonal_Q = gram_QQ.diagonal().clone()
    gram_QQ.diagonal().add_(DAMPING * diagonal_Q + TINY * diagonal_Q.mean().clamp_min(TINY))
    weight_T = torch.linalg.solve(gram_QQ, missing_Q)[sequence_T, None]
    return {
        name: rows[name].moved(_reach(rows[name], each).T @ (weight_T * each.gradients_TV.double()))
        for name, each in captured.items()
    }


def _reach(rows: Movable, captured: Captured) -> Tensor:
    """``C = X A``: T × R; made when it is needed, since those of all modules would be large."""
    return captured.keys_TU.double() @ rows.left_UR

"""Refinement rounds: run the edit prompts under the candidate weights, step `D`, solve again.

The candidate's shift is ``S = A D`` with ``A`` fixed (`normal_equation.projector`), so the loss's gradient
with respect to `D` is ``A' ∂L/∂S``, and ``∂L/∂S`` is the weight gradient of the edited module: one backward
pass of the language model, whatever the number of facts.

The least change that answers is wanted, since whatever goes beyond it disturbs other prompts. So a fact that
falls short is pushed, and one that does not decays until it does; the last rounds only push.

A larger margin carries over to more other wordings, and what a few facts disturb is little. So few facts are
refined to a larger margin. What is kept of them is what a large set would ask for, and each solution scales
it to the number of its facts (`RefinementPlan.strength`): facts that come one by one end as if in one set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from malmen_core.base import BaseModel
from malmen_core.batches import answer_logits, batches, score_answers, smallest_margins
from malmen_core.overlay import Weights, intercepting
from malmen_core.projection import Projection, storage_for
from malmen_core.tokens import Encoded

Progress = Callable[[str, int, int], None]


DECAYING = 0.8
GAP = 8.0
"""Nats by which a model's answer beats a new one, typically: in the median of 300 CounterFact facts, 7.4."""


@dataclass(frozen=True)
class RefinementPlan:
    """How far and how fast facts are pushed in.

    Attributes:
        rounds: how many at most; the first four fifths of them let facts decay that are in.
        step: size of a step, relative to the typical magnitude of a module's output (its root mean square).
        margin: a sequence is in when each answer token beats every other by this many nats.
        lone_margin: this many for a fact that is alone; `n` facts get its ``√n``-th part, unless `margin` is
            more.
        decay: share of its value differences that a fact which is in loses in a round.
        bound: largest magnitude of a row of `D` (its root mean square), relative to the typical one of the
            module's output; a step that goes beyond is cut short.
    """

    rounds: int = 24
    step: float = 0.3
    margin: float = 2.0
    lone_margin: float = 12.0
    decay: float = 0.1
    bound: float = 10.0

    def margin_of(self, facts: int) -> float:
        """The margin that so many facts are refined to: the fewer, the less they disturb."""
        return max(self.margin, self.lone_margin / math.sqrt(max(facts, 1)))

    def strength(self, facts: int) -> float:
        """By how much more so many facts are pushed than a large set's, for the differences kept of both.

        A change grows about in proportion to the nats that it wins, which start `GAP` below the answer.
        """
        return (self.margin_of(facts) + GAP) / (self.margin + GAP) if self.rounds > 0 else 1.0


@dataclass(frozen=True)
class RoundResult:
    """What one pass over sequences found.

    Attributes:
        gradients: ``∂L/∂S`` by module, U × V float32, for the sequences that fall short.
        margins: smallest margin over its answer tokens, by sequence index.
    """

    gradients: Mapping[str, Tensor]
    margins: Mapping[int, float]


def shift_gradients(
    base: BaseModel,
    shifts: Mapping[str, Tensor],
    sequences: Sequence[Encoded],
    members: Sequence[int],
    *,
    wanted: float,
    batch_tokens: int | None = None,
) -> RoundResult:
    """Gradient of the answers' loss with respect to each module's shift `S`, at ``base + S``.

    Args:
        base: the immutable base, whose draft is run.
        shifts: S by module, U × V.
        sequences: prompts with answers.
        members: indices of the sequences to run.
        wanted: a sequence whose every answer token has this margin does not contribute.
        batch_tokens: padded tokens of a batch at most.
    """
    chosen = [sequences[i] for i in members]
    run = partial(_shift_gradients, base, shifts, sequences, members, wanted)
    return base.draft.room.within(batch_tokens, chosen, run)


def _shift_gradients(
    base: BaseModel,
    shifts: Mapping[str, Tensor],
    sequences: Sequence[Encoded],
    members: Sequence[int],
    wanted: float,
    batch_tokens: int,
) -> RoundResult:
    weights = {
        name: (module.weight_UV + shifts[name].to(module.weight_UV)).requires_grad_()
        for name, module in base.modules.items()
    }
    margins: dict[int, float] = {}
    draft = base.draft
    for batch in batches(draft, sequences, members=members, batch_tokens=batch_tokens):
        with torch.enable_grad(), intercepting(Weights(weights)):
            scores = score_answers(answer_logits(draft, batch), batch.answer_A)
            smallest_B = smallest_margins(batch, scores.margin_A)
            open_A = (smallest_B < wanted)[batch.row_A]
            if bool(open_A.any()):
                scores.nll_A[open_A].sum().backward()  # type: ignore[no-untyped-call]
        margins |= dict(zip(batch.members, smallest_B.tolist(), strict=True))
    zero = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    gradients = {name: (w.grad if w.grad is not None else zero[name]).detach() for name, w in weights.items()}
    return RoundResult(gradients, margins)


class RowAdam:
    """Adam (Kingma & Ba 2015) on `D`, whose rows start and stop at different rounds."""

    def __init__(self, like_TV: Tensor, step: float, betas: tuple[float, float] = (0.9, 0.98)) -> None:
        self.first = torch.zeros_like(like_TV)
        self.second = torch.zeros_like(like_TV)
        self.count = torch.zeros(like_TV.shape[0], 1, dtype=like_TV.dtype, device=like_TV.device)
        self.step, self.betas = step, betas

    def update(self, gradient_TV: Tensor, active_T: Tensor) -> Tensor:
        """The change of `D`: zero where a row is not active."""
        on = active_T[:, None]
        b1, b2 = self.betas
        self.count += on
        self.first = torch.where(on, b1 * self.first + (1 - b1) * gradient_TV, self.first)
        self.second = torch.where(on, b2 * self.second + (1 - b2) * gradient_TV**2, self.second)
        n = self.count.clamp_min(1)
        mean, square = self.first / (1 - b1**n), self.second / (1 - b2**n)
        # one scale a row, not one a feature: the direction of the gradient is kept
        scale = square.mean(1, keepdim=True).sqrt() + 1e-12
        return torch.where(on, -self.step * mean / scale, torch.zeros_like(mean))


@dataclass(frozen=True)
class Refined:
    """The outcome of refinement.

    Attributes:
        differences: D by module, T × V.
        margins: last seen smallest margin of each sequence.
    """

    differences: Mapping[str, Tensor]
    margins: tuple[float, ...]


def refine(
    base: BaseModel,
    plan: RefinementPlan,
    projectors: Mapping[str, Tensor],
    differences: Mapping[str, Tensor],
    scales: Mapping[str, float],
    sequences: Sequence[Encoded],
    fact_of: Sequence[int],
    fact_T: Tensor,
    progress: Progress | None = None,
    batch_tokens: int | None = None,
) -> Refined:
    """Refine `D` until every sequence is in and no further, or the rounds are spent.

    A fact's rows are pushed while one of its own sequences falls short, and decay otherwise.

    Args:
        base: the immutable base.
        plan: rounds, step, margin, decay.
        projectors: A by module, U × T.
        differences: the first guess of D by module, T × V.
        scales: typical magnitude of each module's output.
        sequences: prompts with answers.
        fact_of: the fact of each sequence.
        fact_T: the fact of each row.
        progress: told ``("editing", sequences that are in, sequences)`` after each round; may raise to abort.
        batch_tokens: padded tokens of a batch.
    """
    dtype = torch.promote_types(base.dtype, torch.float32)
    D = {name: d.to(dtype) for name, d in differences.items()}
    place = storage_for(D, projectors, base)
    A = {name: Projection(p.to(dtype), place, base) for name, p in projectors.items()}
    D = {name: d.to(place, copy=True) for name, d in D.items()}
    adam = {name: RowAdam(D[name], plan.step * scales[name]) for name in D}
    watch = _Watch(len(sequences), plan.margin)
    for number in range(plan.rounds):
        decaying = plan.decay > 0 and number < DECAYING * plan.rounds
        members = watch.due()
        shifts = {name: A[name].shift(D[name]) for name in D}
        result = shift_gradients(
            base, shifts, sequences, members, wanted=plan.margin, batch_tokens=batch_tokens
        )
        watch.update(result.margins)
        short = watch.short
        if progress is not None:
            progress("editing", len(sequences) - len(short), len(sequences))
        if not short and not decaying and len(members) == len(sequences):
            break
        pushed_T = torch.isin(fact_T, torch.tensor(sorted({fact_of[i] for i in short}), dtype=torch.int64))
        pushed_T = pushed_T.to(place)
        for name in D:
            if decaying:
                D[name][~pushed_T] *= 1 - plan.decay
            D[name] += adam[name].update(A[name].pull(result.gradients[name].to(dtype)), pushed_T)
            D[name][pushed_T] = bounded(D[name][pushed_T], plan, scales[name])
    return Refined({name: d.cpu() for name, d in D.items()}, tuple(watch.margins))


def bounded(D_TV: Tensor, plan: RefinementPlan, scale: float) -> Tensor:
    """Rows of `D` shortened to the plan's bound; those within it come back as they are."""
    return shortened(D_TV, plan.bound * scale)


def shortened(D_TV: Tensor, bound: float) -> Tensor:
    """Rows whose magnitude (root mean square) is within a bound; those that are come back as they are."""
    return D_TV * (bound / _magnitude_T(D_TV)).clamp(max=1.0)[:, None]


def at_bound(D_TV: Tensor, plan: RefinementPlan, scale: float) -> Tensor:
    """Which rows of `D` lie at the plan's bound; T."""
    return _magnitude_T(D_TV) > 0.999 * plan.bound * scale


def _magnitude_T(D_TV: Tensor) -> Tensor:
    return D_TV.square().mean(1).sqrt().clamp_min(1e-30)


class _Watch:
    """The margins last seen; a sequence that is in is looked at every other round, unless all are."""

    def __init__(self, count: int, margin: float) -> None:
        self.margin = margin
        self.margins = [-torch.inf] * count
        self.rests = [False] * count

    @property
    def short(self) -> list[int]:
        return [i for i, margin in enumerate(self.margins) if margin < self.margin]

    def due(self) -> list[int]:
        everything = range(len(self.margins))
        return [i for i in everything if not self.rests[i]] if self.short else list(everything)

    def update(self, seen: Mapping[int, float]) -> None:
        self.rests = [i in seen and seen[i] >= self.margin for i in range(len(self.margins))]
        for i, margin in seen.items():
            self.margins[i] = margin

"""Refinement rounds: run the edit prompts under the candidate weights, step `D`, solve again.

The candidate's shift is ``S = A D`` with ``A`` fixed (`normal_equation.projector`), so the loss's gradient
with respect to `D` is
``A' ∂L/∂S``, and ``∂L/∂S`` is the weight gradient of the edited module: one backward pass of the language
model, whatever
the number of facts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from malmen_core.base import BaseModel
from malmen_core.batches import DEFAULT_BATCH_TOKENS, Batch, answer_logits, batches, score_answers
from malmen_core.overlay import Weights, intercepting
from malmen_core.tokens import Encoded

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RefinementPlan:
    """How far and how fast facts are pushed in.

    Attributes:
        rounds: at most this many.
        step: size of a step, relative to the typical magnitude of a module's output (its root mean square).
        margin: a sequence is done when each answer token beats every other by this many nats.
        keep: an anchor is kept when its answer beats every other by this many nats, or by half of what it
            did on
            the base if that is less.
        rest: rounds for which a sequence that is done is not looked at again.
    """

    rounds: int = 20
    step: float = 0.15
    margin: float = 0.6
    keep: float = 0.5
    rest: int = 4


@dataclass(frozen=True)
class Goals:
    """What refinement has to reach.

    Attributes:
        sequences: prompts with answers: those of the facts, and anchors that must keep theirs.
        margins: the smallest margin in nats that each sequence's answer tokens need.
        fact_of: the fact of each sequence.
    """

    sequences: tuple[Encoded, ...]
    margins: tuple[float, ...]
    fact_of: tuple[int, ...]


@dataclass(frozen=True)
class RoundResult:
    """What one pass over sequences found.

    Attributes:
        gradients: ``∂L/∂S`` by module, U × V float32, for the sequences that are not done.
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
    wanted: Sequence[float],
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> RoundResult:
    """Gradient of the answers' loss with respect to each module's shift `S`, at ``base + S``.

    Args:
        base: the immutable base.
        shifts: S by module, U × V.
        sequences: prompts with answers.
        members: indices of the sequences to run.
        wanted: margin by sequence; one whose every answer token has it does not contribute.
        batch_tokens: padded tokens of a batch.
    """
    weights = {
        name: (module.weight_UV + shifts[name].to(module.weight_UV)).requires_grad_()
        for name, module in base.modules.items()
    }
    margins: dict[int, float] = {}
    draft = base.draft
    for batch in batches(draft, sequences, members=members, batch_tokens=batch_tokens):
        with torch.enable_grad(), intercepting(Weights(weights)):
            scores = score_answers(answer_logits(draft, batch), batch.answer_A)
            smallest_B = _smallest_margins(batch, scores.margin_A)
            wanted_B = torch.tensor([wanted[i] for i in batch.members]).to(smallest_B)
            open_A = (smallest_B < wanted_B)[batch.row_A]
            if bool(open_A.any()):
                scores.nll_A[open_A].sum().backward()  # type: ignore[no-untyped-call]
        margins |= dict(zip(batch.members, smallest_B.tolist(), strict=True))
    zero = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    gradients = {name: (w.grad if w.grad is not None else zero[name]).detach() for name, w in weights.items()}
    return RoundResult(gradients, margins)


def _smallest_margins(batch: Batch, margin_A: Tensor) -> Tensor:
    start = torch.full((len(batch.members),), torch.inf, device=margin_A.device, dtype=margin_A.dtype)
    return start.scatter_reduce(0, batch.row_A, margin_A, "amin")


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
        differences: D by module, T × V float32.
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
    goals: Goals,
    fact_T: Tensor,
    progress: Progress | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Refined:
    """Refine `D` until every goal is met or the rounds are spent.

    A fact's rows move while one of its own sequences falls short, and stand still otherwise.

    Args:
        base: the immutable base.
        plan: rounds and step.
        projectors: A by module, U × T.
        differences: the first guess of D by module, T × V.
        scales: typical magnitude of each module's output.
        goals: what has to be reached.
        fact_T: the fact of each row.
        progress: told ``("editing", sequences done, sequences)`` after each round; may raise to abort.
        batch_tokens: padded tokens of a batch.
    """
    place, dtype = base.device, torch.promote_types(base.dtype, torch.float32)
    A = {name: p.to(place, dtype) for name, p in projectors.items()}
    D = {name: d.to(place, dtype).clone() for name, d in differences.items()}
    adam = {name: RowAdam(D[name], plan.step * scales[name]) for name in D}
    state = _State(goals, plan.rest)
    for _ in range(plan.rounds):
        members = state.due()
        shifts = {name: A[name] @ D[name] for name in D}
        result = shift_gradients(
            base, shifts, goals.sequences, members, wanted=goals.margins, batch_tokens=batch_tokens
        )
        state.update(result.margins)
        if progress is not None:
            progress("editing", len(goals.sequences) - len(state.short), len(goals.sequences))
        if not state.short:
            if len(members) == len(goals.sequences):
                break
            state.wake()
            continue
        facts = torch.tensor(sorted({goals.fact_of[i] for i in state.short}))
        active_T = torch.isin(fact_T, facts).to(place)
        for name in D:
            D[name] += adam[name].update(A[name].T @ result.gradients[name].to(dtype), active_T)
    return Refined({name: d.cpu() for name, d in D.items()}, tuple(state.margins))


class _State:
    """Which sequences fall short of their goal, and which may rest because they do not."""

    def __init__(self, goals: Goals, rest: int) -> None:
        self.goals, self.rest = goals, rest
        self.margins = [-torch.inf] * len(goals.sequences)
        self.resting = [0] * len(goals.sequences)

    @property
    def short(self) -> list[int]:
        return [i for i, margin in enumerate(self.margins) if margin < self.goals.margins[i]]

    def due(self) -> list[int]:
        return [i for i, rest in enumerate(self.resting) if rest == 0]

    def update(self, seen: Mapping[int, float]) -> None:
        self.resting = [max(0, rest - 1) for rest in self.resting]
        for i, margin in seen.items():
            self.margins[i] = margin
            self.resting[i] = self.rest if margin >= self.goals.margins[i] else 0

    def wake(self) -> None:
        self.resting = [0] * len(self.resting)

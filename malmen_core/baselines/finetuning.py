"""Constrained fine-tuning (Zhu et al. 2020, arXiv 2012.00363), as Meng et al. (2022) compare with.

    min Σ L(x_i; W + S)   subject to   ‖S‖∞ ≤ ε

on one layer's projection: Adam on batches of facts, and after each step a projection back into the bounds.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from malmen_core.baselines.sequential import Shifts, Unprepared, one_after_the_other
from malmen_core.editing.gauss_newton import Progress
from malmen_core.editing.goals import edit_goals
from malmen_core.evaluation.methods import Sets
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import answer_logits, batches, score_answers
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import EditedModule, Weights, intercepting
from malmen_core.models.tokenization import Encoded


@dataclass(frozen=True)
class FineTuning(Unprepared):
    """Fine-tuning of one or a few layers within bounds.

    Attributes:
        rate: Adam's learning rate.
        bound: ε, the largest change of any weight by one edit set.
        epochs: passes over a set at most.
        batch_facts: facts in one step.
        stop: mean loss of a pass, in nats a fact, at which a set is done.
        depth_share: where in the model the first tuned layer lies, from 0 to 1.
        count: how many layers are tuned.
        seed: of the order of the facts.
    """

    name: ClassVar[str] = "ft"
    rate: float = 1e-3
    bound: float = 2e-2
    epochs: int = 50
    batch_facts: int = 64
    stop: float = 1e-2
    depth_share: float = 0.44
    count: int = 1
    seed: int = 0

    def layers(self, depth: int) -> tuple[int, ...]:
        """`count` layers from `depth_share` of the depth on."""
        first = min(int(self.depth_share * depth), depth - self.count)
        return tuple(range(first, first + self.count))

    def edit(self, base: BaseModel, sets: Sets, progress: Progress | None = None) -> Delta:
        """See `Method.edit`."""

        def tune(facts: Sequence[Fact], shifts: Shifts) -> Shifts:
            return self._tune(base, edit_goals(base, facts).sequences, shifts, progress)

        return one_after_the_other(base, sets, tune)

    def _tune(
        self, base: BaseModel, sequences: Sequence[Encoded], shifts: Shifts, progress: Progress | None
    ) -> Shifts:
        dtype = torch.promote_types(base.dtype, torch.float32)
        own = {name: torch.zeros_like(s, dtype=dtype, requires_grad=True) for name, s in shifts.items()}
        optimiser = torch.optim.Adam(own.values(), lr=self.rate)
        present = Weights.shifted(base.modules, shifts)
        order, draw = list(range(len(sequences))), random.Random(self.seed)
        for epoch in range(self.epochs):
            draw.shuffle(order)
            total = 0.0
            for start in range(0, len(order), self.batch_facts):
                members = order[start : start + self.batch_facts]
                optimiser.zero_grad()
                total += _backward(base, _Shifted(present, own), sequences, members)
                optimiser.step()
                with torch.no_grad():
                    for shift in own.values():
                        shift.clamp_(-self.bound, self.bound)
            if progress is not None:
                progress("fine-tuning", epoch + 1, self.epochs)
            if total / len(order) < self.stop:
                break
        return {name: shift.detach() for name, shift in own.items()}


class _Shifted:
    """Runs the edited modules at their present weights plus shifts that collect gradients."""

    def __init__(self, present: Weights, own: Mapping[str, Tensor]) -> None:
        self.present, self.own = present, own

    def __call__(self, module: EditedModule, inputs: Tensor) -> Tensor:
        weight_UV = self.present.weights[module.name]
        return module.with_weight(inputs, weight_UV + self.own[module.name].to(weight_UV))


def _backward(
    base: BaseModel, interceptor: _Shifted, sequences: Sequence[Encoded], members: Sequence[int]
) -> float:
    """Back-propagate the mean over facts of each answer's mean token loss; returns its sum over facts."""
    total = 0.0
    for batch in batches(base, sequences, members=members):
        with torch.enable_grad(), intercepting(interceptor):
            nll_A = score_answers(
                answer_logits(base, sequences, batch), batch.answer_A, base.continuing_X
            ).nll_A
            loss = (nll_A / torch.bincount(batch.row_A)[batch.row_A]).sum()
            (loss / len(members)).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total

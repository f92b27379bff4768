"""MEMIT (Meng et al. 2023, arXiv 2210.07229): targets for the residual stream, spread over a range of layers.

For each fact, a change ``δ`` of the last critical layer's output at the subject's last token is optimised
until the model says the target, also behind a few sampled prefixes; ``z = h + δ`` is the target there. Then,
layer by layer from the first, keys and hidden states are taken at the present weights, and with ``l`` layers
to go,

    S = (c C0 + K'K)⁻¹ K'R,        R = (z - h) / l.

``C0`` is the second moment of keys on other text: here that of this project's prior. A subject that is
not given is found as for this project's edits; without one, a fact is edited at the last token of its prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from malmen_core.baselines.memit_targets import Optimisation, Prompts, optimise, prepare_prompts, take_keys
from malmen_core.baselines.sequential import Shifts, one_after_the_other
from malmen_core.editing.calibrate import preservation_moments
from malmen_core.editing.covariance import SecondMoment
from malmen_core.editing.gauss_newton import Progress
from malmen_core.editing.ridge import Regulariser, Ridge
from malmen_core.evaluation.methods import Method, Sets
from malmen_core.facts import Fact
from malmen_core.generation.continuations import sample_continuations
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import Weights

PREFIX_OPENINGS = ("The", "Therefore", "Because", "I", "You")
PREFIX_TOKENS = 10
RIDGE = 1e-6


@dataclass(frozen=True)
class Memit(Optimisation):
    """MEMIT; how δ is optimised is among its settings.

    Attributes:
        prior_weight: c, the covariance's weight in tokens.
        prefixes: sampled texts in front of each prompt, besides none; at most five.
        depth_share: where in the model the first critical layer lies, from 0 to 1.
        count: how many critical layers there are.
        seed: of the sampled text.
    """

    name: ClassVar[str] = "memit"
    prior_weight: float = 15000.0
    prefixes: int = 5
    depth_share: float = 1 / 6
    count: int = 6
    seed: int = 0

    def layers(self, depth: int) -> tuple[int, ...]:
        """`count` layers from `depth_share` of the depth on."""
        first = min(int(self.depth_share * depth), max(0, depth - self.count))
        return tuple(range(first, min(first + self.count, depth)))

    def prepare(self, base: BaseModel, progress: Progress | None = None) -> Method:
        """Sample prefixes and measure the covariance."""

        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress("measuring the covariance", done, total)

        openings = PREFIX_OPENINGS[: self.prefixes]
        ids = sample_continuations(base, openings, tokens=PREFIX_TOKENS, seed=self.seed) if openings else []
        texts = [" ".join(base.tokenizer.decode(text.ids, skip_special_tokens=True).split()) for text in ids]
        moments = preservation_moments(base, seed=self.seed, progress=tell)
        return MemitMethod(self, ("", *(f"{text}. " for text in texts)), moments)


@dataclass(frozen=True)
class MemitMethod:
    """MEMIT, ready for a base model.

    Attributes:
        plan: its settings.
        prefixes: what each prompt is put behind; the first is empty.
        moments: ``C0`` by module.
    """

    plan: Memit
    prefixes: tuple[str, ...]
    moments: Mapping[str, SecondMoment]
    name: ClassVar[str] = Memit.name

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Method.settings`."""
        return asdict(self.plan)

    def edit(self, base: BaseModel, sets: Sets, progress: Progress | None = None) -> Delta:
        """See `Method.edit`."""

        def turn(facts: Sequence[Fact], shifts: Shifts) -> Shifts:
            prompts = prepare_prompts(base, facts, self.prefixes)
            return self.spread(base, prompts, self.targets(base, prompts, shifts, progress), shifts)

        return one_after_the_other(base, sets, turn)

    def targets(
        self, base: BaseModel, prompts: Prompts, shifts: Shifts, progress: Progress | None = None
    ) -> Tensor:
        """``z`` of each fact at the last critical layer: F × V."""
        present = Weights.shifted(base.modules, shifts)
        _, hidden_FV = take_keys(base, present, prompts, next(reversed(base.modules)))
        return hidden_FV + optimise(base, present, prompts, hidden_FV, self.plan, progress)

    def spread(self, base: BaseModel, prompts: Prompts, targets_FV: Tensor, shifts: Shifts) -> Shifts:
        """Solve for each layer in turn, at the weights that the layers before have left."""
        own = {name: torch.zeros_like(shift) for name, shift in shifts.items()}
        for number, name in enumerate(base.modules):
            present = Weights.shifted(base.modules, {n: shifts[n] + own[n] for n in shifts})
            keys_FU, hidden_FV = take_keys(base, present, prompts, name)
            residual_FV = (targets_FV - hidden_FV).double() / (len(base.modules) - number)
            own[name] = self._ridge(name, keys_FU).shift(residual_FV)
        return own

    def _ridge(self, name: str, keys_FU: Tensor) -> Ridge:
        """``(c C0 + K'K)⁻¹ K'``; λ only keeps it solvable."""
        moment, weight = self.moments[name], self.plan.prior_weight
        return Ridge.of(
            keys_FU, Regulariser(RIDGE, keys_FU.shape[1], keys_FU.device, weight=weight, moment=moment)
        )

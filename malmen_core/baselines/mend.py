"""MEND (Mitchell et al. 2022, arXiv 2110.11309): a network maps a gradient's rank-1 factors to better ones.

A linear layer's gradient for a token is an outer product of its input ``k`` and its output's gradient ``g``.
The network maps both, and the shifts of all tokens of all facts are summed:

    S = -η/U · Σ k̃' g̃

No equation couples the tokens, which is what MALMEN changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from malmen_core.baselines.sequential import Shifts, last_layers, one_after_the_other
from malmen_core.editing.calibrate import initial_editor
from malmen_core.editing.capture import Captured, capture
from malmen_core.editing.editor import PAPER, Editor
from malmen_core.editing.gauss_newton import Progress
from malmen_core.editing.goals import edit_goals
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.evaluation.methods import Method, Sets
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import Weights
from malmen_core.training.meta_gradient import EditInputs, shifted_weights
from malmen_core.training.meta_loss import MetaBatch, MetaLossResult, meta_loss


def summed_shift(network: HyperNetwork, name: str, seen: Captured) -> Tensor:
    """``S`` of one module: U × V; differentiable in the network's parameters."""
    _, keys_TU, gradients_TV = network.factors(
        name, seen.keys[name].to(network.log_step), seen.gradients[name].to(network.log_step)
    )
    return -network.step(name) / network.shapes[name][0] * keys_TU.T @ gradients_TV


@dataclass(frozen=True)
class SummedShifts:
    """The rule that MEND's network is trained under.

    As in `meta_gradient`, the language model is back-propagated to ``S`` alone, and ``⟨∂L/∂S, S(θ)⟩`` through
    the network.
    """

    name: str = "mend"

    def weights(
        self, base: BaseModel, network: HyperNetwork, start: Editor, inputs: EditInputs
    ) -> dict[str, Tensor]:
        """See `Rule.weights`; there is no equation, so the start's plan has no place in it."""
        del start
        with torch.no_grad():
            shifts = {name: summed_shift(network, name, inputs.captured) for name in base.modules}
        return shifted_weights(base, shifts)

    def learn(
        self,
        base: BaseModel,
        network: HyperNetwork,
        start: Editor,
        inputs: EditInputs,
        meta_batch: MetaBatch,
        *,
        batch_tokens: int,
    ) -> MetaLossResult:
        """See `Rule.learn`."""
        edited = self.weights(base, network, start, inputs)
        weights = {name: weight.requires_grad_() for name, weight in edited.items()}
        outcome = meta_loss(base, weights, meta_batch, batch_tokens=batch_tokens)
        for name, weight in weights.items():
            gradient = weight.grad
            assert gradient is not None
            shift = summed_shift(network, name, inputs.captured)
            shift.backward(gradient.to(shift))  # type: ignore[no-untyped-call]
        return outcome


@dataclass(frozen=True)
class Mend:
    """MEND, untrained (the identity) unless an editor that `errata train --baseline mend` wrote is given.

    Attributes:
        step: η of every module, of the untrained form; a trained one has its own.
        last: how many of the last layers are edited; the paper's three.
        above: how many layers above the edited ones are left alone.
        rank: of the hypernetwork's residual blocks; the paper's is 1920.
        seed: of the hypernetwork's first projections.
    """

    name: ClassVar[str] = "mend"
    step: float = 0.1
    last: int = 3
    above: int = 0
    rank: int = 64
    seed: int = 0

    def layers(self, depth: int) -> tuple[int, ...]:
        """The last ones below those that are left alone."""
        return last_layers(depth, self.last, self.above)

    def editor(self, base: BaseModel) -> Editor:
        """The untrained network in an editor's file, to use or to train."""
        card = {"kind": "mend", **asdict(self)}
        return initial_editor(base, PAPER, {}, card, step=self.step, rank=self.rank, seed=self.seed)

    def prepare(self, base: BaseModel, progress: Progress | None = None) -> Method:  # noqa: ARG002
        """See `Baseline.prepare`."""
        return MendMethod(self.editor(base).network, asdict(self))

    def trained(self, editor: Editor) -> Method:
        """With a network that has been trained."""
        return MendMethod(editor.network, {"editor": editor.digest, "card": dict(editor.card)})


@dataclass(frozen=True)
class MendMethod:
    """MEND with its network.

    Attributes:
        network: trained or not.
        settings: see `Method.settings`.
    """

    network: HyperNetwork
    settings: Mapping[str, Any]
    name: ClassVar[str] = Mend.name

    def edit(self, base: BaseModel, sets: Sets, progress: Progress | None = None) -> Delta:  # noqa: ARG002
        """See `Method.edit`."""

        def turn(facts: Sequence[Fact], shifts: Shifts) -> Shifts:
            present = Weights.shifted(base.modules, shifts)
            sequences = edit_goals(base, facts).sequences
            seen = capture(base, sequences, "answer", weights=present)
            with torch.no_grad():
                return {name: summed_shift(self.network, name, seen) for name in base.modules}

        return one_after_the_other(base, sets, turn)

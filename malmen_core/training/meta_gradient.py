"""The decoupled meta-gradient (paper, section 3.3): language model and hypernetwork in graphs of their own.

With ``S = P D``, the language model is back-propagated to ``S`` alone: ``∂L/∂S`` is the weight gradient of the
edited module at ``W + S``. The rest is closed form (`Ridge.gradients`): from it follow ``∂L/∂D`` and ``∂L/∂λ``,
and ``Σ ⟨∂L/∂D, D(θ)⟩ + ∂L/∂λ · λ(θ)``, with the first factors held fixed, is back-propagated through the
hypernetwork. Each of the two has its own batch size, and neither batch size changes the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from malmen_core.editing.capture import Captured
from malmen_core.editing.editor import Editor
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.editing.ridge import Ridge
from malmen_core.models.base import BaseModel
from malmen_core.training.meta_loss import MetaBatch, MetaLossResult, meta_loss

BATCH_ROWS = 4096


@dataclass(frozen=True)
class EditInputs:
    """What a batch of facts is edited with; computed on the base.

    Attributes:
        captured: keys and gradients at the edited tokens.
        preserved: keys at which nothing may change, by module; None for none.
    """

    captured: Captured
    preserved: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class SingleShot:
    """A single-shot edit of some captured rows.

    Attributes:
        ridges: the normal equation, by module.
        shifts: ``S`` by module, U × V, float64.
    """

    ridges: Mapping[str, Ridge]
    shifts: Mapping[str, Tensor]

    def weights(self, base: BaseModel) -> dict[str, Tensor]:
        """``W + S`` by module, in the base's dtype; leaves of no graph."""
        return shifted_weights(base, self.shifts)


def shifted_weights(base: BaseModel, shifts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``W + S`` by module, in the base's dtype, summed in float64."""
    return {
        name: (module.weight_UV.double() + shifts[name].to(base.device)).to(base.dtype)
        for name, module in base.modules.items()
    }


def single_shot(
    network: HyperNetwork, start: Editor, inputs: EditInputs, *, batch_rows: int = BATCH_ROWS
) -> SingleShot:
    """Predict `D` and solve, without rounds; builds no graph.

    Args:
        network: the hypernetwork.
        start: the editor whose plan and prior the equation has.
        inputs: of the facts.
        batch_rows: rows in one hypernetwork batch; changes memory, not the result.
    """
    seen = inputs.captured
    place = network.log_step.device
    noise = start.plan.noise
    with torch.no_grad():
        rows = len(seen.sequence_T)
        regularisers = replace(start, network=network).regularisers(place, rows, inputs.preserved)
        ridges = {name: Ridge.of(keys_TU, regularisers[name], noise) for name, keys_TU in seen.keys.items()}
        shifts = {}
        for name, ridge in ridges.items():
            differences = [network(name, *part) for part in _row_batches(network, name, seen, batch_rows)]
            shifts[name] = ridge.shift(torch.cat(differences))
    return SingleShot(ridges, shifts)


def meta_gradient(
    base: BaseModel,
    network: HyperNetwork,
    start: Editor,
    inputs: EditInputs,
    meta_batch: MetaBatch,
    *,
    batch_tokens: int | None = None,
    batch_rows: int = BATCH_ROWS,
) -> MetaLossResult:
    """Add the meta loss's gradient to ``.grad`` of every hypernetwork parameter.

    Args:
        base: the immutable base.
        network: the hypernetwork, on the base's device.
        start: the editor whose plan and prior the equation has.
        inputs: what the facts are edited with.
        meta_batch: what the edit is judged by.
        batch_tokens: padded tokens of a language-model batch.
        batch_rows: rows of a hypernetwork batch.

    Returns:
        How the single-shot edit did.
    """
    edit = single_shot(network, start, inputs, batch_rows=batch_rows)
    weights = {name: weight.requires_grad_() for name, weight in edit.weights(base).items()}
    result = meta_loss(base, weights, meta_batch, batch_tokens=batch_tokens)
    for name, ridge in edit.ridges.items():
        gradient = weights[name].grad
        assert gradient is not None
        rows_gradient_TV, ridge_gradient = ridge.gradients(edit.shifts[name], gradient)
        parts = _row_batches(network, name, inputs.captured, batch_rows)
        for part, part_gradient in zip(parts, torch.split(rows_gradient_TV, batch_rows), strict=True):
            differences = network(name, *part)
            differences.backward(part_gradient.to(differences))
        learned = network.ridge(name)
        learned.backward(ridge_gradient.to(learned))  # type: ignore[no-untyped-call]
    return result


class Rule(Protocol):
    """What a network's predictions are made into weights by, and how it learns from what these do."""

    @property
    def name(self) -> str:
        """Kept with a training run, which goes on under the same rule only."""

    def weights(
        self, base: BaseModel, network: HyperNetwork, start: Editor, inputs: EditInputs
    ) -> dict[str, Tensor]:
        """``W + S`` by module, in the base's dtype; leaves of no graph."""

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
        """Add the meta loss's gradient to ``.grad`` of the network's parameters."""


@dataclass(frozen=True)
class NormalEquationRule:
    """This module's rule, the paper's: see `single_shot` and `meta_gradient`."""

    name: str = "malmen"

    def weights(
        self, base: BaseModel, network: HyperNetwork, start: Editor, inputs: EditInputs
    ) -> dict[str, Tensor]:
        """See `Rule.weights`."""
        return single_shot(network, start, inputs).weights(base)

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
        return meta_gradient(base, network, start, inputs, meta_batch, batch_tokens=batch_tokens)


MALMEN = NormalEquationRule()


def _row_batches(
    network: HyperNetwork, name: str, seen: Captured, batch_rows: int
) -> Iterator[tuple[Tensor, Tensor]]:
    keys, gradients = seen.keys[name].to(network.log_step), seen.gradients[name].to(network.log_step)
    return zip(torch.split(keys, batch_rows), torch.split(gradients, batch_rows), strict=True)

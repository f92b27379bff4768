"""The decoupled meta-gradient (paper, section 3.3): language model and hypernetwork in graphs of their own.

With ``P = K'K + M`` and ``S = P⁻¹K'D``, the language model is back-propagated to ``S`` alone: ``∂L/∂S`` is
the weight gradient of the edited module at ``W + S``. The rest is closed form. From ``E = P⁻¹ ∂L/∂S``,

    ∂L/∂D = K E,        ∂L/∂λ = -⟨E, S⟩        (since dS = -P⁻¹ dλ S),

and ``Σ ⟨∂L/∂D, D(θ)⟩ + ∂L/∂λ · λ(θ)``, with the first factors held fixed, is back-propagated through the
hypernetwork. Each of the two has its own batch size, and neither batch size changes the result.

Rows that are held (anchors: a key whose value difference is zero) enter `P` alone, and change none of this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from malmen_core.editing.capture import Captured
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.models.base import BaseModel
from malmen_core.training.meta_loss import Lesson, Outcome, run_lesson

DEFAULT_BATCH_ROWS = 4096


@dataclass(frozen=True)
class NormalEquation:
    """``P = K'K + M`` of one module, factored once, and what it is solved for.

    Attributes:
        keys_TU: K; float64.
        factor_UU: the lower Cholesky factor of P; float64.
    """

    keys_TU: Tensor
    factor_UU: Tensor

    @classmethod
    def of(
        cls, keys_TU: Tensor, ridge: float, prior_UU: Tensor | None = None, held_TU: Tensor | None = None
    ) -> NormalEquation:
        """Factor ``K'K + λI + c·C0``, with the keys that are held as further rows of `K`.

        Args:
            keys_TU: keys of the batch.
            ridge: λ > 0.
            prior_UU: c·C0, or None for the paper's plain form.
            held_TU: keys whose value difference is zero, or None.
        """
        keys = keys_TU.double()
        matrix = keys.T @ keys
        if held_TU is not None:
            held = held_TU.to(keys)
            matrix += held.T @ held
        if prior_UU is not None:
            matrix += prior_UU.to(matrix)
        matrix.diagonal().add_(ridge)
        return cls(keys, torch.linalg.cholesky(matrix))

    def shift(self, differences_TV: Tensor) -> Tensor:
        """``S = P⁻¹K'D``: U × V, float64."""
        return torch.cholesky_solve(self.keys_TU.T @ differences_TV.double(), self.factor_UU)

    def gradients(self, shift_UV: Tensor, shift_gradient_UV: Tensor) -> tuple[Tensor, Tensor]:
        """From ``S`` and ``∂L/∂S``: ``∂L/∂D`` (T × V) and ``∂L/∂λ`` (scalar), float64."""
        solved_UV = torch.cholesky_solve(shift_gradient_UV.double(), self.factor_UU)
        return self.keys_TU @ solved_UV, -(solved_UV * shift_UV).sum()


@dataclass(frozen=True)
class Material:
    """What a batch of facts is edited with, by module; computed on the base.

    Attributes:
        captured: keys and gradients at the edited tokens.
        held: keys whose value difference is zero (T × U); absent for none.
    """

    captured: Mapping[str, Captured]
    held: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Shifted:
    """A single-shot edit of some captured rows.

    Attributes:
        equations: the factored normal equation, by module.
        shifts: ``S`` by module, U × V, float64.
    """

    equations: Mapping[str, NormalEquation]
    shifts: Mapping[str, Tensor]

    def weights(self, base: BaseModel) -> dict[str, Tensor]:
        """``W + S`` by module, in the base's dtype; leaves of no graph."""
        return {
            name: (module.weight_UV.double() + self.shifts[name]).to(base.dtype)
            for name, module in base.modules.items()
        }


def single_shot(
    network: HyperNetwork,
    priors: Mapping[str, Tensor],
    material: Material,
    *,
    batch_rows: int = DEFAULT_BATCH_ROWS,
) -> Shifted:
    """Predict `D` and solve, without refinement; builds no graph.

    Args:
        network: the hypernetwork.
        priors: c·C0 by module; absent for the paper's plain form.
        material: of the facts.
        batch_rows: rows in one hypernetwork batch; changes memory, not the result.
    """
    place = network.log_step.device
    equations, shifts = {}, {}
    with torch.no_grad():
        for name, rows in material.captured.items():
            keys, held = rows.keys_TU.to(place), material.held.get(name)
            equation = NormalEquation.of(keys, float(network.ridge(name)), priors.get(name), held)
            differences = [network(name, *part) for part in _row_batches(network, rows, batch_rows)]
            equations[name] = equation
            shifts[name] = equation.shift(torch.cat(differences))
    return Shifted(equations, shifts)


def meta_gradient(
    base: BaseModel,
    network: HyperNetwork,
    priors: Mapping[str, Tensor],
    material: Material,
    lesson: Lesson,
    *,
    batch_tokens: int | None = None,
    batch_rows: int = DEFAULT_BATCH_ROWS,
) -> Outcome:
    """Add the meta loss's gradient to ``.grad`` of every hypernetwork parameter.

    Args:
        base: the immutable base.
        network: the hypernetwork, on the base's device.
        priors: c·C0 by module; absent for the paper's plain form.
        material: of the lesson's facts.
        lesson: what the edit is judged by.
        batch_tokens: padded tokens of a language-model batch.
        batch_rows: rows of a hypernetwork batch.

    Returns:
        How the single-shot edit did in the lesson.
    """
    edit = single_shot(network, priors, material, batch_rows=batch_rows)
    weights = {name: weight.requires_grad_() for name, weight in edit.weights(base).items()}
    outcome = run_lesson(base, weights, lesson, batch_tokens=batch_tokens)
    for name, rows in material.captured.items():
        gradient = weights[name].grad
        assert gradient is not None
        difference_gradient_TV, ridge_gradient = edit.equations[name].gradients(edit.shifts[name], gradient)
        _backward_rows(network, name, rows, difference_gradient_TV, batch_rows)
        ridge = network.ridge(name)
        ridge.backward(ridge_gradient.to(ridge))  # type: ignore[no-untyped-call]
    return outcome


class Rule(Protocol):
    """What a network's predictions are made into weights by, and how it learns from what these do."""

    @property
    def name(self) -> str:
        """Kept with a training run, which goes on under the same rule only."""

    def weights(
        self, base: BaseModel, network: HyperNetwork, priors: Mapping[str, Tensor], material: Material
    ) -> dict[str, Tensor]:
        """``W + S`` by module, in the base's dtype; leaves of no graph."""

    def learn(
        self,
        base: BaseModel,
        network: HyperNetwork,
        priors: Mapping[str, Tensor],
        material: Material,
        lesson: Lesson,
        *,
        batch_tokens: int,
    ) -> Outcome:
        """Add the meta loss's gradient to ``.grad`` of the network's parameters."""


@dataclass(frozen=True)
class NormalEquationRule:
    """This module's rule, the paper's: see `single_shot` and `meta_gradient`."""

    name: str = "malmen"

    def weights(
        self, base: BaseModel, network: HyperNetwork, priors: Mapping[str, Tensor], material: Material
    ) -> dict[str, Tensor]:
        """See `Rule.weights`."""
        return single_shot(network, priors, material).weights(base)

    def learn(
        self,
        base: BaseModel,
        network: HyperNetwork,
        priors: Mapping[str, Tensor],
        material: Material,
        lesson: Lesson,
        *,
        batch_tokens: int,
    ) -> Outcome:
        """See `Rule.learn`."""
        return meta_gradient(base, network, priors, material, lesson, batch_tokens=batch_tokens)


MALMEN = NormalEquationRule()


def _backward_rows(
    network: HyperNetwork, name: str, rows: Captured, gradient_TV: Tensor, batch_rows: int
) -> None:
    parts = _row_batches(network, rows, batch_rows)
    for part, gradient in zip(parts, torch.split(gradient_TV, batch_rows), strict=True):
        differences = network(name, *part)
        differences.backward(gradient.to(differences))


def _row_batches(network: HyperNetwork, rows: Captured, batch_rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    keys, gradients = rows.keys_TU.to(network.log_step), rows.gradients_TV.to(network.log_step)
    return zip(torch.split(keys, batch_rows), torch.split(gradients, batch_rows), strict=True)

"""Training-free editing in closed form: UltraEdit (Gu et al. 2025, arXiv 2505.14679).

A token's key ``h`` and gradient ``g`` are normalised by statistics that run on over all edits so far
(lifelong normalisation). Then, with no network and no rounds,

    v = -η ‖ĥ‖² ĝ,        S = (H'H + λI)⁻¹ H'V,        λ = 1.

The running deviation divides by the count, the paper's by the count less one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from malmen_core.baselines.sequential import Shifts, Unprepared, last_layers, one_after_the_other
from malmen_core.editing.capture import capture
from malmen_core.editing.gauss_newton import Progress
from malmen_core.editing.goals import edit_goals
from malmen_core.editing.normaliser import Moments
from malmen_core.editing.ridge import Regulariser, Ridge
from malmen_core.evaluation.methods import Sets
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import Weights


@dataclass(frozen=True)
class TrainingFree(Unprepared):
    """UltraEdit.

    Attributes:
        step: η.
        ridge: λ.
        last: how many of the last layers are edited.
    """

    name: ClassVar[str] = "training-free"
    step: float = 1e-3
    ridge: float = 1.0
    last: int = 6

    def layers(self, depth: int) -> tuple[int, ...]:
        """The last ones."""
        return last_layers(depth, self.last)

    def edit(self, base: BaseModel, sets: Sets, progress: Progress | None = None) -> Delta:  # noqa: ARG002
        """See `Method.edit`."""
        running = {
            name: (Moments.none(m.shape[0]), Moments.none(m.shape[1])) for name, m in base.modules.items()
        }

        def turn(facts: Sequence[Fact], shifts: Shifts) -> Shifts:
            present = Weights.shifted(base.modules, shifts)
            sequences = edit_goals(base, facts).sequences
            seen = capture(base, sequences, "answer", weights=present)
            shifts = {}
            for name, (key, gradient) in running.items():
                keys_TU, gradients_TV = seen.keys[name], seen.gradients[name]
                own = key.merge(Moments.of(keys_TU)), gradient.merge(Moments.of(gradients_TV))
                running[name] = own
                shifts[name] = self.shift(keys_TU, gradients_TV, *own)
            return shifts

        return one_after_the_other(base, sets, turn)

    def shift(self, keys_TU: Tensor, gradients_TV: Tensor, keys: Moments, gradients: Moments) -> Tensor:
        """``S`` of one module: U × V, float64."""
        square_T = keys.normalise(keys_TU.double()).pow(2).sum(1, keepdim=True)
        values_TV = -self.step * square_T * gradients.normalise(gradients_TV.double())
        regulariser = Regulariser(self.ridge, keys_TU.shape[1], keys_TU.device)
        return Ridge.of(keys_TU, regulariser).shift(values_TV)

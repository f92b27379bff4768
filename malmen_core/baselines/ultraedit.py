"""Training-free editing in closed form: UltraEdit (Gu et al. 2025, arXiv 2505.14679).

A token's key ``h`` and gradient ``g`` are normalised by statistics that run on over all edits so far
(lifelong normalisation). Then, with no network and no rounds,

    v = -η ‖ĥ‖² ĝ,        S = (H'H + λI)⁻¹ H'V,        λ = 1.

The running deviation divides by the count, the paper's by the count less one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor

from malmen_core.baselines.sequential import Shifts, one_after_the_other
from malmen_core.editing.capture import Captured, capture
from malmen_core.editing.normaliser import Moments
from malmen_core.editing.prompts import edit_prompts
from malmen_core.editing.refinement import Progress
from malmen_core.editing.ridge import Regulariser, projector
from malmen_core.evaluation.methods import Method, Sets
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import Weights


@dataclass(frozen=True)
class TrainingFree:
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

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was tuned with."""
        return asdict(self)

    def layers(self, depth: int) -> tuple[int, ...]:
        """The last ones."""
        return tuple(range(max(0, depth - self.last), depth))

    def prepare(self, base: BaseModel, progress: Progress | None = None) -> Method:  # noqa: ARG002
        """There is nothing to prepare."""
        return self

    def edit(self, base: BaseModel, sets: Sets, progress: Progress | None = None) -> Delta:  # noqa: ARG002
        """See `Method.edit`."""
        running = {
            name: (Moments.none(m.shape[0]), Moments.none(m.shape[1])) for name, m in base.modules.items()
        }

        def turn(facts: Sequence[Fact], shifts: Shifts) -> Shifts:
            present = Weights.shifted(base.modules, shifts)
            sequences = edit_prompts(base, facts).sequences
            captured, _ = capture(base.draft, sequences, "answer", weights=present)
            for name, rows in captured.items():
                key, gradient = running[name]
                running[name] = (
                    key.merge(Moments.of(rows.keys_TU)),
                    gradient.merge(Moments.of(rows.gradients_TV)),
                )
            return {name: self.shift(rows, *running[name]) for name, rows in captured.items()}

        return one_after_the_other(base, sets, turn)

    def shift(self, rows: Captured, keys: Moments, gradients: Moments) -> Tensor:
        """``S`` of one module: U × V, float64."""
        square_T = keys.normalise(rows.keys_TU.double()).pow(2).sum(1, keepdim=True)
        values_TV = -self.step * square_T * gradients.normalise(rows.gradients_TV.double())
        regulariser = Regulariser(self.ridge, 0.0, None, rows.keys_TU.shape[1])
        return projector(rows.keys_TU.cpu(), regulariser) @ values_TV.cpu()

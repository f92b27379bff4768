"""The model at its present weights: methods that edit again and again work on what they edited before.

Passes run on the base's draft, as the editor's own do, so that methods are compared on equal terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from malmen_core.errors import NotFiniteError
from malmen_core.evaluation.methods import Sets
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Change, Delta

Shifts = Mapping[str, Tensor]
Edit = Callable[[Sequence[Fact], Shifts], Shifts]


def one_after_the_other(base: BaseModel, sets: Sets, edit: Edit) -> Delta:
    """The delta of edit sets of which each is computed on what the ones before have left.

    Args:
        base: the immutable base.
        sets: facts by edit set.
        edit: from a set and the shifts so far (U × V, float64) to the set's own shifts.

    Raises:
        NotFiniteError: a shift came out infinite or NaN.
    """
    shifts = {
        name: torch.zeros(m.shape, dtype=torch.float64, device=base.device)
        for name, m in base.modules.items()
    }
    for facts in sets:
        for name, change in edit(facts, shifts).items():
            shifts[name] = shifts[name] + change.to(shifts[name])
            if not bool(torch.isfinite(shifts[name]).all()):
                raise NotFiniteError(f"The shift of {name!r} is not finite.", "Use a smaller step.")
    return Delta({name: Change(dense_UV=shift.float().cpu()) for name, shift in shifts.items()})

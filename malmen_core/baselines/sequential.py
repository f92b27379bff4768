"""What baselines share: their settings, their layers, and edit sets that come one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from malmen_core.editing.gauss_newton import Progress
from malmen_core.errors import NotFiniteError
from malmen_core.evaluation.methods import Method, Sets
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Change, Delta

Shifts = Mapping[str, Tensor]
Edit = Callable[[Sequence[Fact], Shifts], Shifts]
Own = TypeVar("Own", bound=Method)


@dataclass(frozen=True)
class Unprepared:
    """A baseline that depends on nothing of a base model but its weights: it is its own method."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was tuned with."""
        return asdict(self)

    def prepare(self: Own, base: BaseModel, progress: Progress | None = None) -> Own:  # noqa: ARG002
        """There is nothing to prepare."""
        return self


def last_layers(depth: int, count: int, above: int = 0) -> tuple[int, ...]:
    """The last layers of a model below those that are left alone, as many as are asked for or there are."""
    end = max(depth - above, 1)
    return tuple(range(max(0, end - count), end))


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

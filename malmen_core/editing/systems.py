"""One module's normal equation over all rows of some statistics, solved for any differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from malmen_core.editing.ridge import DualForm, Regulariser
from malmen_core.editing.statistics import Rows
from malmen_core.errors import NotFiniteError
from malmen_core.models.delta import Change, Delta


@dataclass(frozen=True)
class Moved:
    """Differences of one module that were moved by repair.

    Attributes:
        place_T: place of each row among all rows of the sum.
        left_UT: the projector at these rows; float64.
        by_TV: by how much the differences moved; float64.
    """

    place_T: Tensor
    left_UT: Tensor
    by_TV: Tensor


class System(Protocol):
    """One module's normal equation, solved for the differences as they came."""

    @property
    def shift_UV(self) -> Tensor:
        """``S``; float64."""

    def scaled(self, by: float) -> System:
        """The same equation for differences that are so many times as large."""

    def left(self, place_T: Tensor, keys_TU: Tensor) -> Tensor:
        """``(K'K + M)⁻¹ K'`` at some rows, by place among all rows and by key: U × T, float64."""

    def change(self, moved: Moved | None) -> Change:
        """The module's part of a delta, with what repair moved."""


class Dual:
    """Solved from stacked rows, fewer than input features; the change is kept as factors."""

    def __init__(self, form: DualForm, right_TV: Tensor) -> None:
        self._form, self._right_TV = form, right_TV

    @cached_property
    def shift_UV(self) -> Tensor:
        """See `System.shift_UV`."""
        return self._form.solve(self._right_TV)

    def scaled(self, by: float) -> Dual:
        """See `System.scaled`."""
        return Dual(self._form, by * self._right_TV)

    def left(self, place_T: Tensor, keys_TU: Tensor) -> Tensor:  # noqa: ARG002 - as `System` has it
        """See `System.left`."""
        return self._form.projector(place_T)

    def change(self, moved: Moved | None) -> Change:
        """See `System.change`; rows that ask for nothing, such as anchors', are no part of it."""
        right_TV = self._right_TV
        if moved is not None:
            right_TV = right_TV.index_add(0, moved.place_T, moved.by_TV)
        asked_T = right_TV.any(1).nonzero()[:, 0]
        return Change.smaller(self._form.projector(asked_T), right_TV[asked_T])


class Primal:
    """Solved from ``K'K`` and ``K'D``, which do not grow with the rows; the change is dense."""

    def __init__(self, factor_UU: Tensor, shift_UV: Tensor) -> None:
        self._factor_UU, self.shift_UV = factor_UU, shift_UV

    @classmethod
    def of(cls, gram_UU: Tensor, product_UV: Tensor, regulariser: Regulariser) -> Primal:
        """Solve."""
        factor_UU = torch.linalg.cholesky(gram_UU + regulariser.matrix_UU)
        return cls(factor_UU, torch.cholesky_solve(product_UV, factor_UU))

    def scaled(self, by: float) -> Primal:
        """See `System.scaled`."""
        return Primal(self._factor_UU, by * self.shift_UV)

    def left(self, place_T: Tensor, keys_TU: Tensor) -> Tensor:  # noqa: ARG002 - as `System` has it
        """See `System.left`."""
        return torch.cholesky_solve(keys_TU.double().T, self._factor_UU)

    def change(self, moved: Moved | None) -> Change:
        """See `System.change`."""
        shift_UV = self.shift_UV if moved is None else self.shift_UV + moved.left_UT @ moved.by_TV
        return Change(dense_UV=shift_UV.float())


def systems_of(rows: Mapping[str, Rows], regularisers: Mapping[str, Regulariser]) -> dict[str, System]:
    """Each module in the form that factors the smaller matrix."""
    return {name: _system(part, regularisers[name]) for name, part in rows.items()}


def _system(rows: Rows, regulariser: Regulariser) -> System:
    count, features = rows.keys_TU.shape
    if count <= features:
        return Dual(DualForm(rows.keys_TU, regulariser), rows.differences_TV.double())
    keys_TU = rows.keys_TU.double()
    return Primal.of(keys_TU.T @ keys_TU, keys_TU.T @ rows.differences_TV.double(), regulariser)


def delta_of(systems: Mapping[str, System], moved: Mapping[str, Moved]) -> Delta:
    """The solution of each module's equation, with what repair moved.

    Raises:
        NotFiniteError: naming the module.
    """
    changes = {name: system.change(moved.get(name)) for name, system in systems.items()}
    for name, change in changes.items():
        if not bool(torch.isfinite(change.dense(torch.float32)).all()):
            raise NotFiniteError(f"The solution for {name!r} is not finite.", "Edit fewer or other facts.")
    return Delta(changes)

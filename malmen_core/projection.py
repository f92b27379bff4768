"""A set's rows while they are refined: on the model's device, or beside it where they exceed the budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from malmen_core.base import BaseModel

COPIES_OF_D = 4
"""`D`, the gradient with respect to it, and Adam's two moments of it."""
BLOCKS = 8


def storage_for(
    differences: Mapping[str, Tensor], projectors: Mapping[str, Tensor], base: BaseModel
) -> torch.device:
    """Where rows are kept: on the device, or in host memory if the budget for statistics does not hold them.

    Args:
        differences: D by module, T × V.
        projectors: A by module, U × T.
        base: whose device and budget count.
    """
    limit = base.room.statistics_bytes
    if limit is None:
        return base.device
    elements = sum(projectors[name].numel() + COPIES_OF_D * d.numel() for name, d in differences.items())
    item = next((d.element_size() for d in differences.values()), 0)
    return base.device if elements * item <= limit else torch.device("cpu")


class Projection:
    """Products with one module's ``A``, by blocks of rows, which need not lie on the model's device."""

    def __init__(self, projector_UT: Tensor, place: torch.device, base: BaseModel) -> None:
        """Keep ``A`` at a place.

        Args:
            projector_UT: A: U × T, in the dtype of all products.
            place: from `storage_for`.
            base: whose device the products are taken on.
        """
        self._device = base.device
        rows = projector_UT.shape[1]
        limit = base.room.statistics_bytes
        if limit is not None:
            row_bytes = projector_UT.shape[0] * projector_UT.element_size()
            rows = max(1, min(rows, limit // BLOCKS // row_bytes))
        self._rows = max(rows, 1)
        self._projector_UT = projector_UT.to(place)

    def shift(self, differences_TV: Tensor) -> Tensor:
        """``S = A D``: U × V, on the model's device.

        Args:
            differences_TV: D, at the place of the rows.
        """
        shape = self._projector_UT.shape[0], differences_TV.shape[1]
        shift_UV = torch.zeros(shape, dtype=differences_TV.dtype, device=self._device)
        blocks = zip(
            torch.split(self._projector_UT, self._rows, 1),
            torch.split(differences_TV, self._rows),
            strict=True,
        )
        for left_UT, right_TV in blocks:
            shift_UV.addmm_(left_UT.to(self._device), right_TV.to(self._device))
        return shift_UV

    def pull(self, gradient_UV: Tensor) -> Tensor:
        """``∂L/∂D = A' ∂L/∂S``: T × V, at the place of the rows.

        Args:
            gradient_UV: ``∂L/∂S``, on the model's device.
        """
        blocks = torch.split(self._projector_UT, self._rows, 1)
        parts = [(left_UT.to(self._device).T @ gradient_UV).to(left_UT.device) for left_UT in blocks]
        return torch.cat(parts)

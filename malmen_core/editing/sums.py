"""Exact sums: ``K'K`` and ``K'D`` over sets, in whole numbers, so that no order leaves a trace.

Adding floating-point matrices gives other last bits in another order, and subtracting does not undo adding.
Each set's products are therefore rounded once, to multiples of ``2**-30``, and added as integers: sets can
come and go in any order, and equal sets have equal sums. The rounding is far below that of the float32 rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from malmen_core.editing.statistics import Statistics
from malmen_core.errors import NotFiniteError

FRACTION_BITS = 30
LARGEST = 2**62


class ExactSums:
    """Sums of one module over the sets that were added and not taken away again.

    Attributes:
        grams_UU: ``K'K`` in units of ``2**-30``; int64.
        products_UV: ``K'D`` likewise.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        self.grams_UU = torch.zeros(inputs, inputs, dtype=torch.int64)
        self.products_UV = torch.zeros(inputs, outputs, dtype=torch.int64)
        self._reach = 0

    def add(self, keys_TU: Tensor, differences_TV: Tensor, sign: int = 1) -> None:
        """Add the rows of one set, or take them away with ``sign=-1``.

        Args:
            keys_TU: its keys.
            differences_TV: its value differences.
            sign: 1 or -1.

        Raises:
            NotFiniteError: the sums would leave the range of 64 bits, or a product is infinite or NaN.
        """
        keys = keys_TU.double()
        parts = _whole(keys.T @ keys), _whole(keys.T @ differences_TV.double())
        reach = self._reach + sign * max(int(part.abs().max()) for part in parts)
        if reach > LARGEST:
            raise NotFiniteError("The sums of all live facts are too large.", "Withdraw some edit sets.")
        self._reach = reach
        self.grams_UU.add_(parts[0], alpha=sign)
        self.products_UV.add_(parts[1], alpha=sign)

    def gram(self) -> Tensor:
        """``K'K``: U × U, float64."""
        return self.grams_UU.double() * 2.0**-FRACTION_BITS

    def product(self) -> Tensor:
        """``K'D``: U × V, float64."""
        return self.products_UV.double() * 2.0**-FRACTION_BITS


def _whole(values: Tensor) -> Tensor:
    scaled = values * 2.0**FRACTION_BITS
    if not bool((scaled.abs() < LARGEST).all()):  # false for NaN too
        raise NotFiniteError(
            "The products of an edit set's rows are too large.", "Edit fewer or other facts."
        )
    return scaled.round().to(torch.int64)


def new_sums(shapes: Mapping[str, tuple[int, int]]) -> dict[str, ExactSums]:
    """Empty sums by module, from each module's (U, V)."""
    return {name: ExactSums(*shape) for name, shape in shapes.items()}


def add_all(sums: Mapping[str, ExactSums], statistics: Statistics, sign: int = 1) -> None:
    """Add a set's rows to each module's sums, or take them away.

    Raises:
        NotFiniteError: as `ExactSums.add` says.
    """
    for name, rows in statistics.modules.items():
        sums[name].add(rows.keys_TU, rows.differences_TV, sign)

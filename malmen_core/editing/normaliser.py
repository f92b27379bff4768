"""A running normaliser: fitted on data, mergeable, and frozen when it is used.

Mean and variance are accumulated by Chan et al.'s pairwise formula in float64, so that the order and
grouping of batches do
not matter beyond rounding, and a single row is a legal sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING = 1e-12


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of some features; adding more gives a new one.

    Attributes:
        count: rows seen.
        mean_U: float64.
        squares_U: sum of squared deviations from the mean; float64.
    """

    count: int
    mean_U: Tensor
    squares_U: Tensor

    @classmethod
    def none(cls, features: int) -> Moments:
        """Nothing seen yet."""
        return cls(0, torch.zeros(features, dtype=torch.float64), torch.zeros(features, dtype=torch.float64))

    @classmethod
    def of(cls, rows_TU: Tensor) -> Moments:
        """Moments of the rows of one batch; any number of rows."""
        rows = rows_TU.double().cpu()
        if rows.shape[0] == 0:
            return cls.none(rows.shape[1])
        mean = rows.mean(0)
        return cls(rows.shape[0], mean, ((rows - mean) ** 2).sum(0))

    def merge(self, other: Moments) -> Moments:
        """Moments of both samples together."""
        count = self.count + other.count
        if count == 0:
            return self
        gap = other.mean_U - self.mean_U
        mean = self.mean_U + gap * (other.count / count)
        squares = self.squares_U + other.squares_U + gap**2 * (self.count * other.count / count)
        return Moments(count, mean, squares)

    @property
    def deviation_U(self) -> Tensor:
        """Standard deviation by feature, float64; 1 for a feature that never varied by more than rounding."""
        deviation = (self.squares_U / max(self.count, 1)).sqrt()
        varies = deviation > ROUNDING * self.mean_U.abs()
        return torch.where(varies, deviation, torch.ones_like(deviation))

    def normalise(self, rows_TU: Tensor) -> Tensor:
        """Centre and scale rows, in their own dtype and on their own device; a pure function."""
        mean, deviation = self.mean_U.to(rows_TU), self.deviation_U.to(rows_TU)
        return (rows_TU - mean) / deviation

"""The second moment ``C0`` of keys without its matrix: ``Y = C0 Ω`` with fixed random directions ``Ω``.

``Y`` and ``tr C0`` are sums over keys, so they stream and mix, and hold U × S numbers where the matrix has
U × U: 0.2 GB instead of 2 GB for a module of GPT-J. The strongest directions come from the Nyström
approximation of one pass, ``C0 ≈ Y (Ω'Y)⁻¹ Y'``, in the stable form of Tropp, Yurtsever, Udell and Cevher
(2017, arXiv 1706.05736, algorithm 3). Modules of few features keep the matrix itself, with ``Ω = I``.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

EXACT_FEATURES = 4096
DIRECTIONS = 1536


class Sketch:
    """What is kept of a second moment.

    Attributes:
        product_US: Y, float64; C0 itself for few features.
        trace: of C0.
    """

    def __init__(self, product_US: Tensor, trace: float) -> None:
        self.product_US, self.trace = product_US, trace

    @classmethod
    def empty(cls, features: int) -> Sketch:
        """Of no key."""
        columns = features if features <= EXACT_FEATURES else DIRECTIONS
        return cls(torch.zeros(features, columns, dtype=torch.float64), 0.0)

    @classmethod
    def whole(cls, moment_UU: Tensor) -> Sketch:
        """Of a second moment that is known as a matrix."""
        return cls(moment_UU.double(), float(moment_UU.trace()))

    def add(self, keys_NU: Tensor) -> None:
        """Add ``k'k`` of each key; products in the keys' dtype, sums in float64 on the CPU."""
        seen = keys_NU if self._is_whole else keys_NU @ _directions(keys_NU.shape[1]).to(keys_NU)
        self.product_US += (keys_NU.T @ seen).double().cpu()
        self.trace += float(keys_NU.double().square().sum())

    def scaled(self, by: float) -> Sketch:
        """So many times as much."""
        return Sketch(by * self.product_US, by * self.trace)

    def mixed(self, other: Sketch, share: float) -> Sketch:
        """With so large a share of another."""
        product_US = torch.lerp(self.product_US, other.product_US, share)
        return Sketch(product_US, self.trace + share * (other.trace - self.trace))

    def strongest(self, rank: int) -> tuple[Tensor, Tensor]:
        """The largest eigenvalues (R) and their vectors (U × R); float64."""
        values_S, vectors_US = torch.linalg.eigh(self.product_US) if self._is_whole else self._nystroem()
        return values_S[-rank:].clamp_min(0), vectors_US[:, -rank:]

    @property
    def _is_whole(self) -> bool:
        return self.product_US.shape[0] == self.product_US.shape[1]

    def _nystroem(self) -> tuple[Tensor, Tensor]:
        directions_US = _directions(self.product_US.shape[0])
        shift = torch.finfo(torch.float64).eps * float(self.product_US.norm())
        shifted_US = self.product_US + shift * directions_US
        core_SS = directions_US.T @ shifted_US
        factor_SS = torch.linalg.cholesky((core_SS + core_SS.T) / 2)
        root_US = torch.linalg.solve_triangular(factor_SS, shifted_US.T, upper=False).T
        vectors_US, sizes_S, _ = torch.linalg.svd(root_US, full_matrices=False)
        return (sizes_S.square() - shift).flip(0), vectors_US.flip(1)


@lru_cache(maxsize=1)
def _directions(features: int) -> Tensor:
    """Orthonormal random directions, always the same: U × S, float64."""
    draw = torch.Generator().manual_seed(0)
    columns = min(DIRECTIONS, features)
    random_US = torch.randn(features, columns, generator=draw, dtype=torch.float64)
    directions_US: Tensor = torch.linalg.qr(random_US)[0]
    return directions_US

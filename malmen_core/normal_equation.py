"""The least-squares aggregation of the paper (section 3.2, equation 4), with a preservation prior.

    S = argmin ‖K S - D‖² + tr(S' M S) = (K'K + M)⁻¹ K'D,      M = λI + c·C0

`M` is fixed for a base model and an editor, so `K'K` and `K'D` stay sums over facts. Writing ``S = A D``
with the *projector*
``A = (K'K + M)⁻¹K' = M⁻¹K'(I + K M⁻¹K')⁻¹`` (Woodbury), ``A`` is computed once for a set and serves every
refinement of `D`.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Regulariser:
    """``M = λI + c·C0`` of one module, factored once.

    Attributes:
        matrix_UU: M in float64.
    """

    def __init__(self, ridge: float, weight: float, moment_UU: Tensor | None, features: int) -> None:
        """Compose M.

        Args:
            ridge: λ > 0.
            weight: c ≥ 0, the prior's weight in tokens.
            moment_UU: C0, the second moment of keys on text that must not change; None for the paper's
                plain form.
            features: U.
        """
        self.matrix_UU = ridge * torch.eye(features, dtype=torch.float64)
        if moment_UU is not None and weight > 0:
            self.matrix_UU += weight * moment_UU.double().cpu()
        self._factor_UU: Tensor | None = None

    def solve(self, right: Tensor) -> Tensor:
        """``M⁻¹ right`` by Cholesky, float64."""
        if self._factor_UU is None:
            self._factor_UU = torch.linalg.cholesky(self.matrix_UU)
        return torch.cholesky_solve(right.double(), self._factor_UU)


def projector(keys_TU: Tensor, regulariser: Regulariser) -> Tensor:
    """``A`` with ``S = A D``: U × T, float64. Primal or dual form, whichever factors the smaller matrix."""
    if keys_TU.shape[0] <= keys_TU.shape[1]:
        return dual_projector(keys_TU, regulariser)
    return primal_projector(keys_TU, regulariser)


def primal_projector(keys_TU: Tensor, regulariser: Regulariser) -> Tensor:
    """``(K'K + M)⁻¹ K'``: U × T, float64; factors a U × U matrix."""
    keys = keys_TU.double()
    factor_UU = torch.linalg.cholesky(keys.T @ keys + regulariser.matrix_UU)
    return torch.cholesky_solve(keys.T, factor_UU)


def dual_projector(keys_TU: Tensor, regulariser: Regulariser) -> Tensor:
    """``M⁻¹K' (I + K M⁻¹K')⁻¹``: U × T, float64; factors a T × T matrix."""
    keys = keys_TU.double()
    solved_UT = regulariser.solve(keys.T)
    gram_TT = keys @ solved_UT
    gram_TT.diagonal().add_(1.0)
    factor_TT = torch.linalg.cholesky((gram_TT + gram_TT.T) / 2)
    return torch.cholesky_solve(solved_UT.T, factor_TT).T

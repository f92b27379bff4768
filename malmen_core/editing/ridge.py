"""The least-squares aggregation of the paper (section 3.2, equation 4), with a preservation prior.

    S = argmin ‖K S - D‖² + tr(S' M S) = (K'K + M)⁻¹ K'D,      M = λI + c·C0

`M` is fixed for a base model, an editor and a number of facts, so `K'K` and `K'D` stay sums over facts.
Writing ``S = A D`` with the *projector*
``A = (K'K + M)⁻¹K' = M⁻¹K'(I + K M⁻¹K')⁻¹`` (Woodbury), ``A`` is computed once for a set and serves every
refinement of `D`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from malmen_core.editing.covariance import SecondMoment


ROWS_AT_ONCE = 8192


class Regulariser:
    """``M = λI + c·C0`` of one module, where ``C0 = QQ' + ρI`` has few strong directions.

    So ``M = aI + FF'`` with ``a = λ + cρ`` and ``F = √c·Q``, and only an R × R matrix has to be factored.
    """

    def __init__(self, ridge: float, weight: float, moment: SecondMoment | None, features: int) -> None:
        """Compose M.

        Args:
            ridge: λ > 0.
            weight: c ≥ 0, the prior's weight in tokens.
            moment: C0, the second moment of keys on text that must not change; None for the paper's plain
                form.
            features: U.
        """
        self._level = ridge
        self._factor_UR = torch.zeros(features, 0, dtype=torch.float64)
        if moment is not None and weight > 0:
            self._level += weight * moment.rest
            self._factor_UR = weight**0.5 * moment.factor_UR.double().cpu()
        gram_RR = self._factor_UR.T @ self._factor_UR
        gram_RR.diagonal().add_(self._level)
        self._inner_RR = torch.linalg.cholesky(gram_RR)

    @property
    def matrix_UU(self) -> Tensor:
        """M itself, in float64; made anew at each call."""
        matrix_UU = self._factor_UR @ self._factor_UR.T
        matrix_UU.diagonal().add_(self._level)
        return matrix_UU

    def solve(self, right: Tensor) -> Tensor:
        """``M⁻¹ right`` in float64, by Woodbury: ``(I - F (aI + F'F)⁻¹ F') right / a``."""
        right = right.double()
        inner = torch.cholesky_solve(self._factor_UR.T @ right, self._inner_RR)
        return (right - self._factor_UR @ inner) / self._level


At = Tensor | slice
"""Some rows, by number."""
ALL = slice(None)


def projector(keys_TU: Tensor, regulariser: Regulariser, at: At = ALL) -> Tensor:
    """``A`` with ``S = A D``: U × T, float64. Primal or dual form, whichever factors the smaller matrix.

    Args:
        keys_TU: K.
        regulariser: M.
        at: only its columns for these rows; the others, say, have no value difference.
    """
    if keys_TU.shape[0] <= keys_TU.shape[1]:
        return dual_projector(keys_TU, regulariser, at)
    return primal_projector(keys_TU, regulariser, at)


def primal_projector(keys_TU: Tensor, regulariser: Regulariser, at: At = ALL) -> Tensor:
    """``(K'K + M)⁻¹ K'``: U × T, float64; factors a U × U matrix.

    Besides the result, two such matrices and a block of rows are held at a time, whatever T.
    """
    matrix_UU = regulariser.matrix_UU
    for block_TU in torch.split(keys_TU, ROWS_AT_ONCE):
        keys = block_TU.double()
        matrix_UU.addmm_(keys.T, keys)
    return torch.cholesky_solve(keys_TU[at].double().T, torch.linalg.cholesky(matrix_UU))


def dual_projector(keys_TU: Tensor, regulariser: Regulariser, at: At = ALL) -> Tensor:
    """``M⁻¹K' (I + K M⁻¹K')⁻¹``: U × T, float64; factors a T × T matrix."""
    return DualForm(keys_TU, regulariser).projector(at)


class DualForm:
    """``M⁻¹K'``, and ``I + K M⁻¹K'`` factored."""

    def __init__(self, keys_TU: Tensor, regulariser: Regulariser) -> None:
        keys = keys_TU.double()
        self._solved_UT = regulariser.solve(keys.T)
        gram_TT = keys @ self._solved_UT
        gram_TT.diagonal().add_(1.0)
        self._factor_TT = torch.linalg.cholesky((gram_TT + gram_TT.T) / 2)

    def solve(self, right_TV: Tensor) -> Tensor:
        """``S`` for some value differences: U × V."""
        return self._solved_UT @ torch.cholesky_solve(right_TV, self._factor_TT)

    def projector(self, at: At = ALL) -> Tensor:
        """``A``, at some rows."""
        count = len(self._factor_TT)
        asked = torch.arange(count)[at]
        unit_TA = self._factor_TT.new_zeros(count, len(asked))
        unit_TA[asked, torch.arange(len(asked))] = 1.0
        return self.solve(unit_TA)

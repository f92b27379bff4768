"""The least-squares aggregation of the paper (section 3.2, equation 4), weighted and with what must stay.

For one module, with the rows of all facts stacked,

    S(D) = argmin ‖K S - D‖²/ε + tr(S' M S) = (K'K/ε + M)⁻¹ K'D/ε,        M = λI + c·C0 + a·A'A

where the rows of `A` are keys at which nothing may change and `C0` is the second moment of keys on other text.
With the *projector* ``P = (K'K/ε + M)⁻¹K'/ε = M⁻¹K'(εI + K M⁻¹K')⁻¹`` (Woodbury), ``S = P D``, and what a row
of `D` does at a key ``x`` is its *response* ``x P``. The smaller of the two matrices is factored, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from malmen_core.editing.covariance import SecondMoment

ROWS_AT_ONCE = 8192


class Regulariser:
    """``M = λI + c·C0 + a·A'A`` of one module, where ``C0 = QQ' + ρI`` has few strong directions.

    So ``M = bI + FF'`` with ``b = λ + cρ``; where `F` has fewer columns than rows, only ``bI + F'F`` is factored.
    """

    def __init__(
        self,
        ridge: float,
        features: int,
        device: torch.device,
        *,
        weight: float = 0.0,
        moment: SecondMoment | None = None,
        preserved_weight: float = 0.0,
        preserved_PU: Tensor | None = None,
    ) -> None:
        """Compose and factor M.

        Args:
            ridge: λ > 0.
            features: U.
            device: where to solve.
            weight: c, the prior's weight in tokens.
            moment: C0; None for the paper's plain form.
            preserved_weight: a.
            preserved_PU: A; None for none.
        """
        self._level = ridge
        parts = [torch.zeros(features, 0, dtype=torch.float64, device=device)]
        if moment is not None and weight > 0:
            self._level += weight * moment.rest
            parts.append(weight**0.5 * moment.factor_UR.to(device, torch.float64))
        if preserved_PU is not None and preserved_weight > 0:
            parts.append(preserved_weight**0.5 * preserved_PU.to(device, torch.float64).T)
        self._factor_UR = torch.cat(parts, 1)
        self._woodbury = self._factor_UR.shape[1] < features
        inner = self._factor_UR.T @ self._factor_UR if self._woodbury else self.matrix_UU
        if self._woodbury:
            inner.diagonal().add_(self._level)
        self._inner = torch.linalg.cholesky(inner)

    @property
    def matrix_UU(self) -> Tensor:
        """M itself, in float64; made anew at each call."""
        matrix_UU = self._factor_UR @ self._factor_UR.T
        matrix_UU.diagonal().add_(self._level)
        return matrix_UU

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self._factor_UR.device

    def solve(self, right: Tensor) -> Tensor:
        """``M⁻¹ right``, float64: U × any."""
        right = right.to(self.device, torch.float64)
        if not self._woodbury:
            return torch.cholesky_solve(right, self._inner)
        inner = torch.cholesky_solve(self._factor_UR.T @ right, self._inner)
        return (right - self._factor_UR @ inner) / self._level


@dataclass(frozen=True)
class Ridge:
    """The normal equation of one module, factored once for its rows, and solved for any `D`.

    Attributes:
        keys_TU: K; float64.
        noise: ε.
    """

    keys_TU: Tensor
    noise: float
    _regulariser: Regulariser
    _dual: bool
    _solved: Tensor
    _factor: Tensor

    @classmethod
    def of(cls, keys_TU: Tensor, regulariser: Regulariser, noise: float = 1.0) -> Ridge:
        """Factor the equation, in the primal or the dual form.

        Args:
            keys_TU: K, of any dtype and device.
            regulariser: M.
            noise: ε > 0: the smaller, the more exactly rows are given what they ask for.
        """
        keys_TU = keys_TU.to(regulariser.device, torch.float64)
        if keys_TU.shape[0] <= keys_TU.shape[1]:
            solved_UT = regulariser.solve(keys_TU.T)
            gram_TT = keys_TU @ solved_UT
            gram_TT = (gram_TT + gram_TT.T) / 2
            gram_TT.diagonal().add_(noise)
            return cls(keys_TU, noise, regulariser, True, solved_UT, torch.linalg.cholesky(gram_TT))
        matrix_UU = noise * regulariser.matrix_UU
        for block_TU in torch.split(keys_TU, ROWS_AT_ONCE):
            matrix_UU.addmm_(block_TU.T, block_TU)
        return cls(keys_TU, noise, regulariser, False, keys_TU.T, torch.linalg.cholesky(matrix_UU))

    def shift(self, differences_TV: Tensor) -> Tensor:
        """``S = P D``: U × V, float64."""
        differences_TV = differences_TV.to(self.keys_TU)
        if self._dual:
            return self._solved @ torch.cholesky_solve(differences_TV, self._factor)
        return torch.cholesky_solve(self._solved @ differences_TV, self._factor)

    def projector(self, rows_T: Tensor | None = None) -> Tensor:
        """``P``, or its columns at some rows (numbers): U × T, float64."""
        if not self._dual:
            columns = self._solved if rows_T is None else self._solved[:, rows_T.to(self._solved.device)]
            return torch.cholesky_solve(columns, self._factor)
        unit_TT = torch.eye(len(self._factor), dtype=torch.float64, device=self._factor.device)
        columns = unit_TT if rows_T is None else unit_TT[:, rows_T.to(unit_TT.device)]
        return self._solved @ torch.cholesky_solve(columns, self._factor)

    def gradients(self, shift_UV: Tensor, shift_gradient_UV: Tensor) -> tuple[Tensor, Tensor]:
        """From ``S`` and ``∂L/∂S``: ``∂L/∂D = P'∂L/∂S`` (T × V) and ``∂L/∂λ`` (scalar), float64.

        With ``E = (K'K/ε + M)⁻¹ ∂L/∂S``, the latter is ``-⟨E, S⟩``, since ``dS = -(K'K/ε + M)⁻¹ dλ S``.
        """
        gradient_UV = shift_gradient_UV.to(self.keys_TU)
        if self._dual:
            to_rows_TV = torch.cholesky_solve(self._solved.T @ gradient_UV, self._factor)
            solved_UV = self._regulariser.solve(gradient_UV) - self._solved @ to_rows_TV
        else:
            solved_UV = self.noise * torch.cholesky_solve(gradient_UV, self._factor)
            to_rows_TV = self.keys_TU @ solved_UV / self.noise
        return to_rows_TV, -(solved_UV * shift_UV.to(solved_UV)).sum()

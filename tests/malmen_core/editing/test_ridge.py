"""The normal equation: primal, dual and the formula agree, and their gradients are those of autograd."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from malmen_core.editing.covariance import SecondMoment
from malmen_core.editing.ridge import Regulariser, Ridge

SIZES = [(1, 6), (3, 8), (8, 8), (20, 8)]
CPU = torch.device("cpu")


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def regulariser(features: int, prior: bool = True, preserved: int = 0, ridge: float = 0.3) -> Regulariser:
    return Regulariser(
        ridge,
        features,
        CPU,
        weight=2.0,
        moment=SecondMoment(draw(9, features, 3), 0.1) if prior else None,
        preserved_weight=5.0,
        preserved_PU=draw(8, preserved, features) if preserved else None,
    )


def formula(keys: Tensor, form: Regulariser, noise: float) -> Tensor:
    """``P`` by plain inversion."""
    found: Tensor = torch.linalg.inv(keys.T @ keys / noise + form.matrix_UU) @ keys.T / noise
    return found


def both(keys: Tensor, form: Regulariser, noise: float) -> tuple[Ridge, Ridge]:
    """The dual and the primal form, of which `of` would take one."""
    features = keys.shape[1]
    padded = torch.cat([keys, keys.new_zeros(features, features)])  # more rows than features
    primal = Ridge.of(padded, form, noise)
    primal = replace(primal, keys_TU=keys, _solved=keys.T)
    solved_UT = form.solve(keys.T)
    gram = keys @ solved_UT + noise * torch.eye(len(keys), dtype=torch.float64)
    return Ridge(keys, noise, form, True, solved_UT, torch.linalg.cholesky(gram)), primal


@pytest.mark.parametrize("noise", [1.0, 0.01])
@pytest.mark.parametrize(("prior", "preserved"), [(False, 0), (True, 0), (True, 2), (True, 9)])
@pytest.mark.parametrize(("rows", "features"), SIZES)
def test_primal_and_dual_are_the_formula(
    rows: int, features: int, prior: bool, preserved: int, noise: float
) -> None:
    keys, form = draw(1, rows, features), regulariser(features, prior, preserved)
    wanted, expected = draw(2, rows, 5), formula(draw(1, rows, features), form, noise)
    for ridge in (*both(keys, form, noise), Ridge.of(keys, form, noise)):
        torch.testing.assert_close(ridge.projector(), expected, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(ridge.shift(wanted), expected @ wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("rows", "features"), SIZES)
@pytest.mark.parametrize("at", [[0], [], [0, -1]])
def test_some_columns_are_those_of_all(rows: int, features: int, at: list[int]) -> None:
    keys, form = draw(1, rows, features), regulariser(features)
    numbers = torch.tensor(at, dtype=torch.int64)
    for ridge in both(keys, form, 0.1):
        torch.testing.assert_close(ridge.projector(numbers), ridge.projector()[:, numbers])


@pytest.mark.parametrize(("rows", "features"), SIZES)
def test_the_smaller_matrix_is_factored(rows: int, features: int) -> None:
    ridge = Ridge.of(draw(1, rows, features), regulariser(features))
    assert len(ridge._factor) == min(rows, features)


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 10_000), st.booleans(), st.floats(0.01, 2))
def test_primal_equals_dual_for_any_size(
    rows: int, features: int, seed: int, prior: bool, noise: float
) -> None:
    dual, primal = both(draw(seed, rows, features), regulariser(features, prior), noise)
    torch.testing.assert_close(primal.projector(), dual.projector(), rtol=1e-7, atol=1e-9)


def test_repeated_keys_are_no_obstacle() -> None:
    keys, form = draw(1, 1, 8).expand(5, 8), regulariser(8, False)
    torch.testing.assert_close(Ridge.of(keys, form).projector(), formula(keys, form, 1.0))


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize(("rows", "features"), SIZES)
def test_the_solution_is_where_the_objective_is_flat(rows: int, features: int, prior: bool) -> None:
    keys, wanted, form = draw(1, rows, features), draw(2, rows, 5), regulariser(features, prior, 4)

    def gradient(S: Tensor) -> Tensor:
        S = S.clone().requires_grad_()
        objective = (keys @ S - wanted).square().sum() / 0.2 + (S.T @ form.matrix_UU @ S).trace()
        found: Tensor = torch.autograd.grad(objective, S)[0]
        return found

    solution = Ridge.of(keys, form, 0.2).shift(wanted)
    assert gradient(solution).abs().max() < 1e-9
    assert gradient(solution + 0.01).abs().max() > 1e-3


@pytest.mark.parametrize("noise", [1.0, 0.05])
@pytest.mark.parametrize(("rows", "features"), SIZES)
def test_gradients_are_those_of_autograd(rows: int, features: int, noise: float) -> None:
    """Through the formula, as one graph of D and λ; and not those of another equation."""
    keys, towards = draw(1, rows, features), draw(3, features, 5)
    D = draw(2, rows, 5).requires_grad_()
    ridge = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    still = regulariser(features, True, 2).matrix_UU - 0.3 * torch.eye(features)
    S = torch.linalg.solve(keys.T @ keys / noise + still + ridge * torch.eye(features), keys.T @ D / noise)
    loss = (S * towards).sum() + (S**3).sum() / 3
    loss.backward()
    assert D.grad is not None
    assert ridge.grad is not None
    own = S.detach()
    for solver in both(keys, regulariser(features, True, 2), noise):
        to_rows, to_ridge = solver.gradients(solver.shift(D.detach()), towards + own**2)
        torch.testing.assert_close(to_rows, D.grad, rtol=1e-8, atol=1e-10)
        assert float(to_ridge) == pytest.approx(float(ridge.grad), rel=1e-6, abs=1e-12)
    other, _ = Ridge.of(keys, regulariser(features, True, 2), 100 * noise).gradients(own, towards + own**2)
    assert not torch.allclose(other, D.grad, rtol=1e-3)


@pytest.mark.parametrize("preserved", [0, 2, 20])
def test_a_regulariser_is_ridge_prior_and_preserved_keys(preserved: int) -> None:
    """With few and with many strong directions, of which the smaller matrix is factored."""
    moment = SecondMoment(draw(4, 6, 1), 0.25)
    kept = draw(5, preserved, 6)
    form = Regulariser(0.5, 6, CPU, weight=3.0, moment=moment, preserved_weight=7.0, preserved_PU=kept)
    expected = 0.5 * torch.eye(6, dtype=torch.float64) + 3 * moment.dense() + 7 * kept.T @ kept
    torch.testing.assert_close(form.matrix_UU, expected)
    right = draw(1, 6, 4)
    torch.testing.assert_close(expected @ form.solve(right), right)
    off = Regulariser(0.5, 6, CPU, weight=0.0, moment=moment, preserved_weight=0.0, preserved_PU=kept)
    assert torch.equal(off.matrix_UU, 0.5 * torch.eye(6, dtype=torch.float64))


def test_the_prior_keeps_what_it_has_seen() -> None:
    """Negative control: without the prior the direction of old keys is moved, with it hardly."""
    old, keys, wanted = draw(3, 1, 8), draw(4, 2, 8), draw(5, 2, 5)
    moment = SecondMoment(old.T, 0.0)
    free = old @ Ridge.of(keys, Regulariser(0.1, 8, CPU)).shift(wanted)
    for held in (
        Regulariser(0.1, 8, CPU, weight=1000.0, moment=moment),
        Regulariser(0.1, 8, CPU, preserved_weight=1000.0, preserved_PU=old),
    ):
        assert float((old @ Ridge.of(keys, held).shift(wanted)).norm()) < 0.01 * float(free.norm())


def test_the_less_noise_the_more_rows_get_what_they_ask_for() -> None:
    keys, wanted, form = draw(1, 3, 8), draw(2, 3, 5), regulariser(8)
    off = [float((keys @ Ridge.of(keys, form, noise).shift(wanted) - wanted).norm()) for noise in (1, 1e-3)]
    assert off[1] < 0.01 * off[0]

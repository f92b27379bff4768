"""The normal equation: primal equals dual, and both minimise the regularised least squares."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from malmen_core.editing.covariance import SecondMoment
from malmen_core.editing.ridge import At, Regulariser, dual_projector, primal_projector, projector

SIZES = [(1, 6), (3, 8), (8, 8), (20, 8)]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def regulariser(features: int, prior: bool, ridge: float = 0.3) -> Regulariser:
    factor = draw(9, features, 3)
    return Regulariser(ridge, 2.0, SecondMoment(factor, 0.1) if prior else None, features)


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize(("rows", "features"), SIZES)
def test_primal_equals_dual(rows: int, features: int, prior: bool) -> None:
    keys, form = draw(1, rows, features), regulariser(features, prior)
    expected = torch.linalg.inv(keys.T @ keys + form.matrix_UU) @ keys.T
    for found in (primal_projector(keys, form), dual_projector(keys, form), projector(keys, form)):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("rows", "features"), SIZES)
@pytest.mark.parametrize("at", [slice(2), torch.tensor([0]), torch.tensor([], dtype=torch.int64)])
def test_some_columns_are_those_of_all(rows: int, features: int, at: At) -> None:
    keys, form = draw(1, rows, features), regulariser(features, True)
    for project in (primal_projector, dual_projector):
        torch.testing.assert_close(project(keys, form, at), project(keys, form)[:, at])


@pytest.mark.parametrize(("rows", "features"), SIZES)
def test_the_smaller_matrix_is_factored(rows: int, features: int) -> None:
    keys, form = draw(1, rows, features), regulariser(features, True)
    smaller = dual_projector if rows <= features else primal_projector
    assert torch.equal(projector(keys, form), smaller(keys, form))


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 10_000), st.booleans())
def test_primal_equals_dual_for_any_size(rows: int, features: int, seed: int, prior: bool) -> None:
    keys, form = draw(seed, rows, features), regulariser(features, prior)
    torch.testing.assert_close(
        primal_projector(keys, form), dual_projector(keys, form), rtol=1e-8, atol=1e-10
    )


def test_repeated_keys_are_no_obstacle() -> None:
    keys, form = draw(1, 1, 8).expand(5, 8), regulariser(8, False)
    torch.testing.assert_close(primal_projector(keys, form), dual_projector(keys, form))


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize(("rows", "features"), SIZES)
def test_the_solution_is_where_the_objective_is_flat(rows: int, features: int, prior: bool) -> None:
    keys, wanted, form = draw(1, rows, features), draw(2, rows, 5), regulariser(features, prior)

    def gradient(S: Tensor) -> Tensor:
        S = S.clone().requires_grad_()
        objective = (keys @ S - wanted).square().sum() + (S.T @ form.matrix_UU @ S).trace()
        found: Tensor = torch.autograd.grad(objective, S)[0]
        return found

    solution = projector(keys, form) @ wanted
    assert gradient(solution).abs().max() < 1e-10
    assert gradient(solution + 0.01).abs().max() > 1e-3


def test_regulariser_is_ridge_plus_weighted_prior() -> None:
    moment = SecondMoment(torch.tensor([[1.0], [2.0]], dtype=torch.float64), 0.25)
    eye = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(Regulariser(0.5, 3.0, moment, 2).matrix_UU, 0.5 * eye + 3 * moment.dense())
    assert torch.equal(Regulariser(0.5, 0.0, moment, 2).matrix_UU, 0.5 * eye)
    right = draw(1, 2, 4)
    form = Regulariser(0.5, 3.0, moment, 2)
    torch.testing.assert_close(form.matrix_UU @ form.solve(right), right)


def test_the_prior_keeps_what_it_has_seen() -> None:
    """Negative control: without the prior the direction of old keys is moved, with it hardly."""
    old, keys = draw(3, 1, 8), draw(4, 2, 8)
    wanted = draw(5, 2, 5)
    moved = [
        (old @ projector(keys, Regulariser(0.1, weight, SecondMoment(old.T, 0.0), 8)) @ wanted).norm()
        for weight in (0.0, 1000.0)
    ]
    assert moved[1] < 0.01 * moved[0]

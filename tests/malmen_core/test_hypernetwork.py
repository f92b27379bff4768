"""The hypernetwork: the identity formula at first, row by row, without state."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from malmen_core.editing.hypernetwork import HyperNetwork, predict

SHAPES = {"a": (6, 4), "b": (6, 4), "c": (4, 6)}


def rows(count: int, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def draw(features: int) -> Tensor:
        return torch.randn(count, features, dtype=torch.float64, generator=generator)

    return {n: draw(u) for n, (u, _) in SHAPES.items()}, {n: draw(v) for n, (_, v) in SHAPES.items()}


@pytest.fixture
def network() -> HyperNetwork:
    made = HyperNetwork(SHAPES, rank=3, blocks=2).double()
    made.fit_normaliser(*rows(20, seed=5))
    return made


def trained(network: HyperNetwork) -> HyperNetwork:
    """The same with weights away from their initial value."""
    made = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return made


def test_initial_network_is_the_identity_formula(network: HyperNetwork) -> None:
    keys, gradients = rows(7)
    for name, (features, _) in SHAPES.items():
        key = network.key_moments[name].normalise(keys[name])
        gradient = network.gradient_moments[name].normalise(gradients[name])
        expected = -math.exp(-3) * (key**2).sum(1, keepdim=True) / features * gradient
        torch.testing.assert_close(predict(network, keys, gradients)[name], expected)
        changed = predict(trained(network), keys, gradients)[name]
        assert not torch.allclose(changed, expected)


@pytest.mark.parametrize("batch_rows", [1, 2, 5, 7, 100])
def test_any_hypernetwork_batch_gives_the_same(network: HyperNetwork, batch_rows: int) -> None:
    keys, gradients = rows(7)
    whole = predict(trained(network), keys, gradients)
    parts = predict(trained(network), keys, gradients, batch_rows=batch_rows)
    for name in SHAPES:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-12, atol=1e-14)


def test_a_row_depends_on_itself_alone(network: HyperNetwork) -> None:
    keys, gradients = rows(7)
    whole = predict(trained(network), keys, gradients)
    keys["a"][3] += 100
    other = predict(trained(network), keys, gradients)
    keep = torch.arange(7) != 3
    torch.testing.assert_close(other["a"][keep], whole["a"][keep], rtol=1e-12, atol=1e-14)
    assert not torch.allclose(other["a"][3], whole["a"][3])


def test_rows_may_come_in_any_order(network: HyperNetwork) -> None:
    keys, gradients = rows(7)
    order = torch.tensor([4, 2, 6, 0, 1, 3, 5])
    whole = predict(trained(network), keys, gradients)
    mixed = predict(
        trained(network), {n: k[order] for n, k in keys.items()}, {n: g[order] for n, g in gradients.items()}
    )
    for name in SHAPES:
        torch.testing.assert_close(mixed[name], whole[name][order], rtol=1e-12, atol=1e-14)


def test_predicting_changes_no_state(network: HyperNetwork) -> None:
    moments = dict(network.key_moments), dict(network.gradient_moments)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    predict(network, *rows(1))
    predict(network, *rows(9))
    assert (network.key_moments, network.gradient_moments) == moments
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_modules_of_one_shape_share_blocks_but_not_scales(network: HyperNetwork) -> None:
    assert sorted(network.networks) == ["4x6", "6x4"]
    same = {name: value[0:1].expand_as(value) for name, value in rows(3)[0].items()}
    keys = {**same, "b": same["a"]}
    gradients = rows(3)[1]
    gradients["b"] = gradients["a"]
    network.key_moments["b"] = network.key_moments["a"]
    network.gradient_moments["b"] = network.gradient_moments["a"]
    assert torch.equal(predict(network, keys, gradients)["a"], predict(network, keys, gradients)["b"])
    moved = trained(network)
    assert not torch.equal(predict(moved, keys, gradients)["a"], predict(moved, keys, gradients)["b"])


def test_step_and_ridge_are_positive_whatever_is_learned(network: HyperNetwork) -> None:
    network.log_step.data.fill_(-100)
    network.log_ridge.data.fill_(-1000)
    assert network.step("a") > 0
    assert network.ridge("a") > 0


def test_one_row_fits_and_predicts_finitely() -> None:
    network = HyperNetwork(SHAPES, rank=3).double()
    network.fit_normaliser(*rows(1))
    assert all(torch.isfinite(d).all() for d in predict(network, *rows(1, seed=2)).values())


def test_rows_of_a_float64_base_pass_through_a_float32_network() -> None:
    network = HyperNetwork(SHAPES, rank=3)
    network.fit_normaliser(*rows(20, seed=5))
    keys, gradients = rows(4)
    single = predict(
        network, {n: k.float() for n, k in keys.items()}, {n: g.float() for n, g in gradients.items()}
    )
    double = predict(network, keys, gradients)
    for name in SHAPES:
        torch.testing.assert_close(double[name].float(), single[name])

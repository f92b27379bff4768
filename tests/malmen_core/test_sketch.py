"""A second moment's sketch against the matrix that it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from malmen_core.editing import sketch
from malmen_core.editing.sketch import Sketch

FEATURES, TOKENS = 120, 900


def keys() -> Tensor:
    """Keys whose second moment falls off as a model's does: few strong directions, a long tail."""
    draw = torch.Generator().manual_seed(3)
    turned_UU: Tensor = torch.linalg.qr(torch.randn(FEATURES, FEATURES, generator=draw, dtype=torch.float64))[
        0
    ]
    sizes_U = torch.arange(1, FEATURES + 1, dtype=torch.float64) ** -1.0
    rows_TU = torch.randn(TOKENS, FEATURES, generator=draw, dtype=torch.float64) * sizes_U
    turned_TU: Tensor = rows_TU @ turned_UU
    return turned_TU


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch, "EXACT_FEATURES", 50)
    monkeypatch.setattr(sketch, "DIRECTIONS", 60)
    sketch._directions.cache_clear()


def cut(rows: Tensor, size: int) -> list[Tensor]:
    return list(torch.split(rows, size))


def sketched(parts: list[Tensor]) -> Sketch:
    found = Sketch.empty(FEATURES)
    for part in parts:
        found.add(part)
    return found.scaled(1 / TOKENS)


def test_few_features_are_kept_as_they_are() -> None:
    rows, whole = keys(), sketched(cut(keys(), 100))
    values, vectors = whole.strongest(7)
    exact = torch.linalg.eigvalsh(rows.T @ rows / TOKENS)
    torch.testing.assert_close(whole.product_US, rows.T @ rows / TOKENS)
    torch.testing.assert_close(values, exact[-7:])
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(7, dtype=torch.float64))


@pytest.mark.usefixtures("narrow")
def test_the_strongest_directions_of_many_features_come_from_a_sketch() -> None:
    rows = keys()
    found = sketched(cut(rows, 100))
    moment = rows.T @ rows / TOKENS
    exact = torch.linalg.eigh(moment)
    values, vectors = found.strongest(15)
    assert found.product_US.shape == (FEATURES, 60)
    torch.testing.assert_close(values, exact.eigenvalues[-15:], rtol=0.1, atol=0.0)
    assert float((exact.eigenvectors[:, -10:].T @ vectors).square().sum(1).min()) > 0.98
    assert found.trace == pytest.approx(float(moment.trace()))


@pytest.mark.usefixtures("narrow")
def test_it_does_not_matter_how_keys_come() -> None:
    rows = keys()
    one, two = sketched([rows]), sketched(cut(rows.flip(0), 37))
    torch.testing.assert_close(one.product_US, two.product_US)
    mixed = sketched([rows[:450]]).mixed(sketched([rows[450:]]), 0.5).scaled(2)
    torch.testing.assert_close(mixed.product_US, one.product_US)
    assert mixed.trace == pytest.approx(one.trace)


@pytest.mark.usefixtures("narrow")
def test_fewer_keys_than_directions_are_exact() -> None:
    rows = keys()[:20]
    found = Sketch.empty(FEATURES)
    found.add(rows)
    values, vectors = found.strongest(20)
    torch.testing.assert_close(vectors * values @ vectors.T, rows.T @ rows, rtol=1e-6, atol=1e-9)

"""The normaliser: mergeable in any grouping, safe for one row, never changed by use."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from malmen_core.editing.normaliser import Moments

FEATURES = 3
rows_of_floats = st.lists(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=FEATURES, max_size=FEATURES), min_size=1, max_size=12
)


def table(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, FEATURES)


def same(one: Moments, other: Moments) -> None:
    assert one.count == other.count
    torch.testing.assert_close(one.mean_U, other.mean_U, rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(one.squares_U, other.squares_U, rtol=1e-9, atol=1e-6)


@given(rows_of_floats, st.lists(st.integers(0, 12), max_size=4), st.randoms(use_true_random=False))
def test_any_grouping_and_order_equals_all_at_once(
    rows: list[list[float]], cuts: list[int], draw: object
) -> None:
    at_once = Moments.of(table(rows))
    edges = sorted({0, len(rows), *(min(c, len(rows)) for c in cuts)})
    parts = [Moments.of(table(rows[a:b])) for a, b in itertools.pairwise(edges)]
    draw.shuffle(parts)  # type: ignore[attr-defined]
    merged = Moments.none(FEATURES)
    for part in parts:
        merged = merged.merge(part)
    same(merged, at_once)
    if len(parts) > 2:
        right = parts[-1]
        for part in reversed(parts[:-1]):
            right = part.merge(right)
        same(right, at_once)


@given(rows_of_floats)
def test_moments_are_the_population_s(rows: list[list[float]]) -> None:
    moments, all_rows = Moments.of(table(rows)), table(rows)
    torch.testing.assert_close(moments.mean_U, all_rows.mean(0))
    torch.testing.assert_close(
        moments.squares_U, all_rows.var(0, unbiased=False) * len(rows), rtol=1e-9, atol=1e-6
    )


def test_one_row_is_a_legal_sample() -> None:
    one = Moments.of(torch.tensor([[1.0, -2.0, 0.0]]))
    assert torch.equal(one.deviation_U, torch.ones(FEATURES, dtype=torch.float64))
    normalised = one.merge(one).normalise(torch.tensor([[2.0, -2.0, 5.0]]))
    assert torch.equal(normalised, torch.tensor([[1.0, 0.0, 5.0]]))


def test_a_constant_feature_has_deviation_one_also_after_rounding() -> None:
    rows = torch.full((3, FEATURES), 0.1, dtype=torch.float64)
    moments = Moments.of(rows).merge(Moments.of(rows[:1])).merge(Moments.of(rows.repeat(3, 1)))
    assert torch.equal(moments.deviation_U, torch.ones(FEATURES, dtype=torch.float64))
    assert Moments.of(rows).normalise(torch.full((1, FEATURES), 0.2)).abs().max() < 1


def test_nothing_seen_leaves_rows_alone() -> None:
    rows = torch.randn(4, FEATURES)
    none = Moments.none(FEATURES)
    assert torch.equal(none.normalise(rows), rows)
    assert none.merge(none).count == 0
    assert Moments.of(rows[:0]).count == 0


def test_normalised_rows_have_mean_zero_and_deviation_one() -> None:
    rows = 3 + 5 * torch.randn(50, FEATURES, dtype=torch.float64)
    normalised = Moments.of(rows).normalise(rows)
    torch.testing.assert_close(
        normalised.mean(0), torch.zeros(FEATURES, dtype=torch.float64), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(normalised.std(0, unbiased=False), torch.ones(FEATURES, dtype=torch.float64))


def test_use_changes_nothing_and_keeps_the_dtype() -> None:
    moments = Moments.of(torch.randn(5, FEATURES))
    before = (moments.count, moments.mean_U.clone(), moments.squares_U.clone())
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert moments.normalise(torch.randn(7, FEATURES, dtype=dtype)).dtype == dtype
    moments.merge(Moments.of(torch.randn(2, FEATURES)))
    assert moments.count == before[0]
    assert torch.equal(moments.mean_U, before[1])
    assert torch.equal(moments.squares_U, before[2])

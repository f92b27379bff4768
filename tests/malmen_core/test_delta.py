"""Deltas: factored or dense, equal either way, and the same bytes for the same content."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from malmen_core.editing.edit import solve
from malmen_core.editing.editor import Editor
from malmen_core.editing.ridge import projector
from malmen_core.editing.statistics import Rows
from malmen_core.errors import DeltaCorrupt
from malmen_core.models.delta import Change, Delta
from malmen_core.serialization import digest, pack, unpack
from tests.malmen_core.support import random_statistics


def factors(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    left = torch.randn(12, rank, generator=generator, dtype=torch.float64)
    return left, torch.randn(rank, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("rank", "factored"), [(1, True), (4, True), (5, False), (30, False)])
def test_the_smaller_form_is_kept(rank: int, factored: bool) -> None:
    """12 x 8 dense is 96 numbers; a rank costs 20."""
    left, right = factors(rank)
    change = Change.smaller(left, right)
    assert (change.dense_UV is None) == factored
    assert (change.left_UR is not None, change.right_RV is not None) == (factored, factored)
    assert change.shape == (12, 8)
    torch.testing.assert_close(change.dense(torch.float64), left @ right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 4])
def test_factored_equals_dense(rank: int) -> None:
    left, right = (part.float() for part in factors(rank))
    factored, dense = Change.smaller(left, right), Change(dense_UV=(left.double() @ right.double()).float())
    torch.testing.assert_close(
        factored.dense(torch.float64), dense.dense(torch.float64), rtol=1e-6, atol=1e-6
    )


def mixed() -> Delta:
    return Delta({"x": Change.smaller(*factors(2)), "b": Change.smaller(*factors(7))})


def test_round_trip_is_bit_for_bit() -> None:
    read = Delta.from_bytes(mixed().to_bytes())
    assert read.to_bytes() == mixed().to_bytes()
    assert read.digest == mixed().digest == digest(mixed().to_bytes())
    assert list(read.modules) == ["x", "b"]
    for name, change in mixed().modules.items():
        assert torch.equal(read.modules[name].dense(torch.float64), change.dense(torch.float64))


def test_a_solved_delta_of_few_facts_is_factored_and_survives(editor: Editor) -> None:
    few = solve(editor, random_statistics(0, editor.network.shapes, facts=3))
    many = solve(editor, random_statistics(0, editor.network.shapes, facts=60))
    assert all(change.left_UR is not None for change in few.modules.values())
    assert all(change.dense_UV is not None for change in many.modules.values())
    for delta in (few, many):
        assert Delta.from_bytes(delta.to_bytes()).to_bytes() == delta.to_bytes()


def test_rows_that_ask_for_nothing_take_no_room(editor: Editor) -> None:
    statistics = random_statistics(0, editor.network.shapes, facts=3)
    asked_T1 = torch.tensor([1.0, 0.0, 0.0, 1.0])[:, None]
    held = {n: Rows(rows.keys_TU, asked_T1 * rows.differences_TV) for n, rows in statistics.modules.items()}
    delta = solve(editor, replace(statistics, modules=held))
    strength = editor.plan.refinement.strength(3)
    for name, change in delta.modules.items():
        assert change.right_RV is not None
        assert len(change.right_RV) == 2
        left_UT = projector(held[name].keys_TU, editor.regularisers[name])
        expected = strength * left_UT @ held[name].differences_TV.double()
        torch.testing.assert_close(change.dense(torch.float64), expected, rtol=1e-5, atol=1e-6)


def test_other_content_has_another_digest() -> None:
    first = mixed()
    less = Delta({"x": first.modules["x"]})
    nudged = Delta({**first.modules, "b": Change(dense_UV=first.modules["b"].dense(torch.float32) + 1e-3)})
    assert len({first.digest, less.digest, nudged.digest, Delta.empty().digest}) == 4
    assert Delta.empty().digest == Delta({}).digest
    assert Delta.from_bytes(Delta.empty().to_bytes()).modules == {}


def test_other_bytes_are_refused() -> None:
    data = mixed().to_bytes()
    incomplete = pack("delta", {"modules": ["x"]}, {"x:left": torch.ones(2, 1)})
    no_list = pack("delta", {}, {"x:left": torch.ones(2, 1)})
    other = pack("statistics", {"modules": []}, {})
    for damaged in (b"", b"{}", b"\xff" * 64, data[:8], data[:-3], data + b"x", incomplete, no_list, other):
        with pytest.raises(DeltaCorrupt):
            Delta.from_bytes(damaged)


def test_a_pack_does_not_depend_on_the_order_of_its_tensors() -> None:
    a, b = torch.ones(2), torch.zeros(3)
    assert pack("k", {"x": 1, "y": 2}, {"a": a, "b": b}) == pack("k", {"y": 2, "x": 1}, {"b": b, "a": a})
    card, tensors = unpack("k", pack("k", {"x": "é"}, {"a": a.to(torch.bfloat16)}))
    assert card == {"x": "é"}
    assert tensors["a"].dtype == torch.bfloat16


def test_a_pack_of_another_kind_is_refused_by_name() -> None:
    with pytest.raises(DeltaCorrupt, match="statistics, not a delta"):
        unpack("delta", pack("statistics", {}, {"a": torch.ones(1)}))

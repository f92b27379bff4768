"""Statistics: a commutative monoid over facts, from which each can be taken out again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from malmen_core.editing.edit import solve
from malmen_core.editing.editor import Editor
from malmen_core.editing.preserved import Group, Preserved
from malmen_core.editing.ridge import Ridge
from malmen_core.editing.statistics import Rows, Statistics, to_storage
from malmen_core.errors import DeltaCorrupt, EditorMismatch
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from tests.malmen_core.support import random_statistics, solved


def sets(editor: Editor, count: int = 5) -> list[Statistics]:
    return [random_statistics(seed, editor.network.shapes, facts=1 + seed % 3) for seed in range(count)]


def close(llama: BaseModel, editor: Editor, one: Statistics, other: Statistics) -> None:
    a, b = solved(llama, editor, one), solved(llama, editor, other)
    assert list(a) == list(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=ATOL)


ATOL = 3e-7  # a delta is stored in float32


def test_grouping_gives_the_same_bytes(llama: BaseModel, editor: Editor) -> None:
    a, b, c, d, e = sets(editor)
    whole = Statistics.sum([a, b, c, d, e])
    for grouped in (
        Statistics.sum([Statistics.sum([a, b]), Statistics.sum([c, d, e])]),
        Statistics.sum([a, Statistics.sum([b, Statistics.sum([c, Statistics.sum([d, e])])])]),
        Statistics.sum([Statistics.sum([Statistics.sum([a, b, c, d])]), e]),
    ):
        assert grouped.digest == whole.digest
        assert solve(llama, editor, grouped).digest == solve(llama, editor, whole).digest
    assert whole.fact_count == sum(s.fact_count for s in (a, b, c, d, e))


def test_nothing_is_the_neutral_element(llama: BaseModel, editor: Editor) -> None:
    a, b, *_ = sets(editor)
    nothing = Statistics.sum([])
    assert (nothing.fact_count, len(nothing.fact_T)) == (0, 0)
    for with_nothing in ([nothing, a, b], [a, nothing, b], [a, b, nothing]):
        assert Statistics.sum(with_nothing).digest == Statistics.sum([a, b]).digest
    assert Statistics.sum([nothing, nothing]).digest == nothing.digest
    assert solve(llama, editor, nothing).digest == Delta.empty().digest


def test_what_float16_holds_is_stored_so_and_zeros_are_not(llama: BaseModel, editor: Editor) -> None:
    made = random_statistics(1, editor.network.shapes, facts=4)
    halves = Statistics(
        {name: Rows(to_storage(r.keys_TU), to_storage(r.differences_TV)) for name, r in made.modules.items()},
        made.fact_T,
        made.fact_count,
        made.preserved,
    )
    for rows in halves.modules.values():
        rows.differences_TV[1:3] = 0
    assert Statistics.from_bytes(made.to_bytes()).digest == made.digest
    again = Statistics.from_bytes(halves.to_bytes())
    for name, rows in halves.modules.items():
        assert torch.equal(again.modules[name].keys_TU, rows.keys_TU)
        assert torch.equal(again.modules[name].differences_TV, rows.differences_TV)
    assert len(halves.to_bytes()) < 0.7 * len(made.to_bytes())


def test_values_beyond_float16_stay_as_they_are() -> None:
    large = torch.tensor([[1.0, 7e4]])
    assert torch.equal(to_storage(large), large)
    near = torch.tensor([[1.0001, -3e-3]])
    assert 0 < float((to_storage(near) - near).abs().max()) < 1e-3


@given(st.permutations(range(5)))
def test_any_order_gives_the_same_delta(llama: BaseModel, editor: Editor, order: list[int]) -> None:
    all_sets = sets(editor)
    close(llama, editor, Statistics.sum([all_sets[i] for i in order]), Statistics.sum(all_sets))


@given(st.permutations(range(5)))
def test_any_order_gives_the_same_solution_in_float64(
    llama: BaseModel, editor: Editor, order: list[int]
) -> None:
    """As `solve`, before the factors are rounded to float32."""
    all_sets = sets(editor)
    one, other = Statistics.sum([all_sets[i] for i in order]), Statistics.sum(all_sets)
    for name, form in editor.regularisers(llama.device, 1).items():
        a, b = (
            Ridge.of(s.modules[name].keys_TU, form).shift(s.modules[name].differences_TV)
            for s in (one, other)
        )
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("gone", range(5))
def test_withdrawing_a_set_is_never_having_had_it(llama: BaseModel, editor: Editor, gone: int) -> None:
    all_sets = sets(editor)
    whole, kept = Statistics.sum(all_sets), [s for i, s in enumerate(all_sets) if i != gone]
    start = sum(s.fact_count for s in all_sets[:gone])
    withdrawn = whole.without(range(start, start + all_sets[gone].fact_count))
    assert solve(llama, editor, withdrawn).digest == solve(llama, editor, Statistics.sum(kept)).digest
    assert solve(llama, editor, withdrawn).digest != solve(llama, editor, whole).digest


def test_withdrawing_a_fact_is_never_having_had_it(llama: BaseModel, editor: Editor) -> None:
    made = random_statistics(1, editor.network.shapes, facts=4)
    rows = made.fact_T != 1
    never = Statistics(
        {n: type(r)(r.keys_TU[rows], r.differences_TV[rows]) for n, r in made.modules.items()},
        made.fact_T[rows],
        3,
        made.preserved,
    )
    assert solve(llama, editor, made.without([1])).digest == solve(llama, editor, never).digest
    assert made.without([1]).without([3]).digest == made.without([3, 1]).digest
    assert made.without([]).digest == made.digest
    assert made.without([1]).fact_count == 4


def test_withdrawing_everything_gives_the_base(llama: BaseModel, editor: Editor) -> None:
    made = random_statistics(1, editor.network.shapes)
    empty = made.without(range(made.fact_count))
    assert solve(llama, editor, empty).digest == Delta.empty().digest
    assert Statistics.from_bytes(empty.to_bytes()).digest == empty.digest
    other = random_statistics(2, editor.network.shapes)
    assert solve(llama, editor, Statistics.sum([empty, other])).digest == solve(llama, editor, other).digest


def test_facts_are_renumbered_in_order(llama: BaseModel, editor: Editor) -> None:
    a, b = (random_statistics(s, editor.network.shapes, facts=2) for s in (1, 2))
    assert Statistics.sum([a, b]).fact_T.tolist() == [0, 1, 1, 2, 3, 3]


def test_sets_of_other_modules_do_not_add_up() -> None:
    a, b = random_statistics(0, {"a": (4, 3)}), random_statistics(0, {"b": (4, 3)})
    with pytest.raises(EditorMismatch):
        Statistics.sum([a, b])


def test_round_trip_is_bit_for_bit(llama: BaseModel, editor: Editor) -> None:
    made = Statistics.sum(sets(editor))
    read = Statistics.from_bytes(made.to_bytes())
    assert read.to_bytes() == made.to_bytes()
    assert (read.digest, read.fact_count) == (made.digest, made.fact_count)
    assert torch.equal(read.fact_T, made.fact_T)
    for name, rows in made.modules.items():
        assert torch.equal(read.modules[name].keys_TU, rows.keys_TU)
        assert torch.equal(read.modules[name].differences_TV, rows.differences_TV)


def test_other_content_has_another_digest(llama: BaseModel, editor: Editor) -> None:
    a, b, *_ = sets(editor)
    again = Statistics(dict(a.modules), a.fact_T.clone(), a.fact_count, a.preserved)
    assert again.digest == a.digest
    assert len({a.digest, b.digest, a.without([0]).digest, Statistics.sum([a, b]).digest}) == 4


def test_other_bytes_are_refused(llama: BaseModel, editor: Editor) -> None:
    data = sets(editor)[0].to_bytes()
    for damaged in (b"", b"garbage", data[:40], data[:-1], Delta.empty().to_bytes(), editor.to_bytes()):
        with pytest.raises(DeltaCorrupt):
            Statistics.from_bytes(damaged)


def preserving(editor: Editor, seed: int, *keys: str) -> Statistics:
    """Two facts, of which the first needs all of some groups of preserved keys, the second the last."""
    made = random_statistics(seed, editor.network.shapes, facts=2)
    draw = torch.Generator().manual_seed(sum(map(ord, "".join(keys))))
    rows = {
        name: torch.randn(2 * len(keys), u, generator=draw) for name, (u, _) in editor.network.shapes.items()
    }
    groups = tuple(Group(key, (0, 1) if key == keys[-1] else (0,), 2) for key in keys)
    return Statistics(made.modules, made.fact_T, made.fact_count, Preserved(rows, groups))


def test_preserved_keys_stay_as_long_as_a_fact_needs_them(llama: BaseModel, editor: Editor) -> None:
    made = preserving(editor, 1, "a", "b")
    assert Statistics.from_bytes(made.to_bytes()).digest == made.digest
    left = made.without([0])
    assert [group.key for group in left.preserved.groups] == ["b"]
    for name, keys_PU in made.preserved.keys.items():
        assert torch.equal(left.preserved.keys[name], keys_PU[2:])
    assert made.without([1]).preserved.groups == made.preserved.groups
    assert made.without([0, 1]).preserved.groups == ()
    assert (
        solve(llama, editor, made).digest
        != solve(
            llama, editor, Statistics(made.modules, made.fact_T, 2, Preserved.none(editor.network.shapes))
        ).digest
    )


def test_groups_that_two_sets_share_count_once(llama: BaseModel, editor: Editor) -> None:
    one, other = preserving(editor, 1, "b"), preserving(editor, 2, "b")
    together = Statistics.sum([one, other])
    assert together.preserved.groups == (Group("b", (0, 1, 2, 3), 2),)
    for name, keys_PU in one.preserved.keys.items():
        assert torch.equal(together.preserved.keys[name], keys_PU)
    assert together.without([0, 1]).preserved.groups[0].key == "b"

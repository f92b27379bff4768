"""Work side by side: the same results in the same order, on a share of the threads each."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from malmen_core.editing.capture import capture
from malmen_core.editing.edit import edit
from malmen_core.editing.prompts import edit_prompts
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import batches, teacher_forced
from malmen_core.models.lanes import MOST, side_by_side
from malmen_core.models.overlay import Weights, intercepting
from tests.malmen_core.support import FACTS, tiny_editor


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


def threads_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("pieces", [2, 3, 4, 9])
def test_pieces_share_the_threads(llama: BaseModel, threads: int, pieces: int) -> None:
    lanes = min(pieces, threads, MOST)
    together = threading.Barrier(lanes)

    def run(piece: int) -> tuple[int, int, int]:
        if piece < lanes:
            together.wait(timeout=10)  # which only lanes that run at the same time pass
        assert side_by_side(llama, lambda _: threading.get_ident(), [0, 1]) == [threading.get_ident()] * 2
        return piece, torch.get_num_threads(), threads_of_a_new_thread()

    found = side_by_side(llama, run, list(range(pieces)))
    assert found == [(piece, threads // lanes, threads) for piece in range(pieces)]
    assert torch.get_num_threads() == threads_of_a_new_thread() == threads


def test_one_thread_or_bounded_memory_means_one_lane(
    llama: BaseModel, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [threading.get_ident()] * 3
    monkeypatch.setattr(llama, "memory_budget", 10**9)
    assert side_by_side(llama, lambda _: threading.get_ident(), [0, 1, 2]) == own
    monkeypatch.setattr(llama, "memory_budget", None)
    assert side_by_side(llama, lambda _: threading.get_ident(), [0, 1, 2]) != own
    torch.set_num_threads(1)
    assert side_by_side(llama, lambda _: threading.get_ident(), [0, 1, 2]) == own


def test_an_error_ends_all(llama: BaseModel, threads: int) -> None:
    begun: list[int] = []
    failing, ended = threading.Event(), threading.Event()

    def run(piece: int) -> None:
        begun.append(piece)
        if piece == 0:
            failing.set()
            raise ValueError("the first")
        failing.wait(10)
        time.sleep(0.2 if piece == 1 else 0.01)
        if piece == 1:
            ended.set()

    with pytest.raises(ValueError, match="the first"):
        side_by_side(llama, run, list(range(1000)))
    assert ended.is_set()
    assert len(begun) < 1000
    assert torch.get_num_threads() == threads


def test_lanes_run_the_weights_of_their_caller(llama: BaseModel, threads: int) -> None:
    sequences = edit_prompts(llama, FACTS).sequences
    llama.room.tokens, before = 20, llama.room.tokens
    try:
        assert len(list(batches(llama, sequences))) > 2
        weights = Weights({name: torch.zeros_like(m.weight_UV) for name, m in llama.modules.items()})
        with intercepting(weights):
            several = teacher_forced(llama, sequences)
            rows, _ = capture(llama, sequences, "answer", weights=weights)
            torch.set_num_threads(1)
            single = teacher_forced(llama, sequences)
        expected, _ = capture(llama, sequences, "answer", weights=weights)
    finally:
        llama.room.tokens = before
    untouched = teacher_forced(llama, sequences)
    for a, b, other in zip(several, single, untouched, strict=True):
        torch.testing.assert_close(a.nll_A, b.nll_A, rtol=1e-9, atol=1e-12)
        assert not torch.allclose(a.nll_A, other.nll_A)
    for name, each in expected.items():
        torch.testing.assert_close(rows[name].keys_TU, each.keys_TU, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(rows[name].gradients_TV, each.gradients_TV, rtol=1e-9, atol=1e-12)


def test_groups_that_are_edited_side_by_side_are_those_of_one_lane(llama: BaseModel, threads: int) -> None:
    editor = tiny_editor(llama, rounds=8)
    editor = replace(editor, plan=replace(editor.plan, group=2))
    told: list[tuple[str, int, int]] = []
    several = edit(llama, editor, FACTS, progress=lambda *step: told.append(step))
    torch.set_num_threads(1)
    single = edit(llama, editor, FACTS)
    for a, b in zip(several.outcomes, single.outcomes, strict=True):
        assert a.margin == pytest.approx(b.margin)
        assert a.subject == b.subject
    for name, rows in single.statistics.modules.items():
        other = several.statistics.modules[name]
        torch.testing.assert_close(other.keys_TU, rows.keys_TU, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(other.differences_TV, rows.differences_TV, rtol=1e-4, atol=1e-6)
    assert {total for _, _, total in told} == {2 * len(FACTS)}
    assert any(2 < done < len(FACTS) for _, done, _ in told)  # of several groups
    assert max(done for _, done, _ in told) == told[-1][1] == 2 * len(FACTS)


def test_progress_that_raises_ends_all_groups(llama: BaseModel, threads: int) -> None:
    class Lost(Exception):
        pass

    def lost(stage: str, done: int, total: int) -> None:
        raise Lost

    editor = tiny_editor(llama, rounds=8)
    with pytest.raises(Lost):
        edit(llama, replace(editor, plan=replace(editor.plan, group=1)), FACTS, progress=lost)
    assert not [each for each in threading.enumerate() if each.name.startswith("lane")]

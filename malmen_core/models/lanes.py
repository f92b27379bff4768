"""Pieces of work side by side on a CPU, each on its share of the threads, not one after the other on all.

A pass over a few hundred tokens is far from twice as fast on two threads as on one: what lies between its
matrix products is too little to be shared. So where there are several such passes, each has its own lane.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from malmen_core.models.base import BaseModel

MOST = 4
"""Lanes at most: between operations, Python runs one thread at a time."""
_THREAD = threading.local()
Piece = TypeVar("Piece")
Result = TypeVar("Result")


def side_by_side(base: BaseModel, run: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result]:
    """Run a function on each piece of a model's work; results in the pieces' order.

    One after the other on a GPU, where memory is bounded, and within a lane. A lane sees what the caller has
    set for its own thread (which weights modules run with), but not torch's grad mode. If one fails, those
    that were not begun are dropped, and the error is raised when no lane is at work any more.

    Args:
        base: the model that is run.
        run: what is done with a piece.
        pieces: the longest first, so that lanes end at about the same time.
    """
    threads = torch.get_num_threads()
    free = base.device.type == "cpu" and base.memory_budget is None and not getattr(_THREAD, "lane", False)
    lanes = min(MOST, threads, len(pieces)) if free else 1
    if lanes < 2:
        return [run(piece) for piece in pieces]
    begun = threading.Barrier(lanes + 1)

    def begin() -> None:
        _THREAD.lane = True
        torch.get_num_threads()  # a thread takes torch's number when it first asks, whatever it was given
        torch.set_num_threads(threads // lanes)  # of this thread, and of those that are begun from now on
        begun.wait()

    with ThreadPoolExecutor(lanes, "lane", begin) as pool:
        running = [pool.submit(copy_context().run, run, piece) for piece in pieces]
        begun.wait()
        torch.set_num_threads(threads)
        try:
            return [each.result() for each in running]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

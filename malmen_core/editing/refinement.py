"""The refinement plan: how far facts are pushed in, and how fast.

A first guess of value differences is refined by steps of least change (`least_change`) until facts answer by
a margin, and no further, since whatever goes beyond that disturbs other prompts.

A larger margin carries over to more other wordings, and disturbs little where facts are few, or where nothing
is near them (`crowding`); so those get a larger one. What is kept of a few is what a large set would ask for,
and each solution scales it to the number of its facts (`RefinementPlan.strength`): facts that come one by one
end about as if they had come in one set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str, int, int], None]

GAP = 8.0
"""Nats by which a model's answer beats a new one, typically: in the median of 300 CounterFact facts, 7.4."""

LEAST = 0.5
"""So much of its margin a lone fact gets however crowded it is; of `n` facts, each gets this over ``√n``."""


@dataclass(frozen=True)
class RefinementPlan:
    """How far and how fast facts are pushed in.

    Attributes:
        rounds: steps of least change from a first guess, before groups are summed; 0 for the paper's single
            shot.
        step: by how much a row of `D` may move in a round (its root mean square), relative to the typical
            magnitude of the module's output.
        way: share of the way to what is aimed at that a round goes, to first order.
        margin: a fact is in when each answer token beats every other by this many nats.
        lone_margin: this many for a fact that is alone; `n` facts get it over the cube root of `n`, unless
            `margin` is more.
        crowded: a fact whose crowding is more than this gets less, in inverse proportion.
        bound: largest magnitude of a row of `D` (its root mean square), relative to the typical one of the
            module's output; a step that goes beyond is cut short.
    """

    rounds: int = 3
    step: float = 1.0
    way: float = 0.8
    margin: float = 2.0
    lone_margin: float = 12.0
    crowded: float = 0.04
    bound: float = 10.0

    def margin_of(self, facts: int, crowding: float = 0.0) -> float:
        """The margin that one of so many facts is refined to, which has such a neighbourhood (`crowding`).

        Never less than half of `margin`, to which a version holds every fact.
        """
        count = max(facts, 1)
        room = min(1.0, self.crowded / crowding) if crowding > 0 else 1.0
        wanted = room * max(self.margin, self.lone_margin / math.cbrt(count))
        return max(self.margin / 2, LEAST * self.lone_margin / math.sqrt(count), wanted)

    def strength(self, facts: int) -> float:
        """By how much more so many facts are pushed than a large set's, for the differences kept of both.

        A change grows about in proportion to the nats that it wins, which start `GAP` below the answer.
        """
        return (self.margin_of(facts) + GAP) / (self.margin + GAP) if self.rounds > 0 else 1.0

"""Composing: from the statistics of all live sets to one delta, whatever their history.

The delta is a function of the live facts alone: rows are stacked in the order of the sets' digests, preserved
keys in the order of theirs, and one normal equation is solved over all of them. Facts that the sum does not
hold, such as two of one subject in two sets, are refined further, together and from the sum (`repair`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from malmen_core.editing.capture import edited_positions
from malmen_core.editing.edit import delta_of, rows_of
from malmen_core.editing.editor import Editor
from malmen_core.editing.gauss_newton import FreeRows, Progress, solve_rounds
from malmen_core.editing.goals import Goals, edit_goals
from malmen_core.editing.ridge import Ridge
from malmen_core.editing.statistics import Statistics
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from malmen_core.models.tokenization import Encoded

SetId = tuple[str, tuple[int, ...]]
"""Digest of a set's statistics, and the facts that are left out of it, in order."""
Place = tuple[SetId, int]
"""A set, and the number of a fact in it."""
StatisticsReader = Callable[[str], Statistics]
"""Gives statistics by digest."""
FactReader = Callable[[Mapping[SetId, Sequence[int]]], Mapping[SetId, Sequence[Fact]]]
"""Gives the facts of some sets at some positions, in their order."""

Key = TypeVar("Key", SetId, str)

TOLERANCE = 0.2
"""A fact may be given so much by other sets, relative to what its own gives it, before it is looked at again."""
OUTGROWN = 8.0
"""A set is looked at again where the prior weighs more than so many times what it was solved with."""
PASSES = 4
"""Looks at what a repair did to other facts."""


@dataclass(frozen=True)
class Composition:
    """The outcome.

    Attributes:
        delta: of all live facts.
        repaired: the facts that were run again since the sum gives them something else, by set.
    """

    delta: Delta
    repaired: Mapping[SetId, tuple[int, ...]]


class _Stack(Generic[Key]):
    """Rows of several owners in the order of the owners' keys, which may come and go."""

    def __init__(self) -> None:
        self.owners: list[Key] = []
        self.counts: list[int] = []
        self.rows: dict[str, Tensor] = {}

    def change(self, owner: Key, rows: Mapping[str, Tensor]) -> None:
        """Put an owner's rows where they belong, in place of those that it had; none to take them out."""
        place = bisect_left(self.owners, owner)
        start = sum(self.counts[:place])
        known = place < len(self.owners) and self.owners[place] == owner
        end = start + (self.counts[place] if known else 0)
        self.owners[place : place + known] = [owner] if rows else []
        self.counts[place : place + known] = [len(next(iter(rows.values())))] if rows else []
        for name in rows or self.rows:
            old = self.rows.get(name)
            parts = [] if old is None else [old[:start], old[end:]]
            if rows:
                parts.insert(min(1, len(parts)), rows[name])
            self.rows[name] = torch.cat(parts)


class Composer:
    """Composes versions of one base. Not thread-safe.

    What it keeps of the live sets between calls makes it fast, and changes no result.
    """

    def __init__(self, base: BaseModel, editor: Editor) -> None:
        self.base, self._editor = base, editor
        self._facts: dict[SetId, Tensor] = {}
        self._groups: dict[SetId, tuple[str, ...]] = {}
        self._users: dict[str, int] = {}
        self._rows: _Stack[SetId] = _Stack()
        self._preserved: _Stack[str] = _Stack()

    def compose(
        self,
        wanted: Mapping[SetId, bool],
        read_statistics: StatisticsReader,
        read_facts: FactReader,
        progress: Progress | None = None,
    ) -> Composition:
        """Solve for some sets together, and refine what their sum does not hold.

        Args:
            wanted: the live sets, and whether each was edited with its rephrasings.
            read_statistics: gives a set's statistics, with all of its facts.
            read_facts: gives the facts that are looked at again.
            progress: told ``("solving", sets done, sets that come or go)`` and what the rounds report; may raise
                to abort.

        Raises:
            NotFiniteError: the statistics or the solution are infinite or NaN.
        """
        changed = sorted(self._facts.keys() ^ wanted.keys())
        for number, ident in enumerate(changed, start=1):
            if ident in self._facts:
                self._drop(ident)
            else:
                self._add(ident, read_statistics(ident[0]).without(ident[1]).check_finite())
            if progress is not None:
                progress("solving", number, len(changed))
        if not self._rows.owners:
            return Composition(Delta.empty(), {})
        names = self._editor.modules
        keys = {name: self._rows.rows[f"{name}:keys"] for name in names}
        differences = {name: self._rows.rows[f"{name}:differences"].double() for name in names}
        ridges = self._ridges(keys)
        repaired: list[Place] = []
        if len(self._rows.owners) > 1 and self._editor.plan.rounds > 0:
            table = _Table(self._places(), keys, differences, ridges, self._outgrown())
            repaired = repair(self.base, self._editor, table, wanted, read_facts, progress)
            differences = table.differences
        by_set: dict[SetId, tuple[int, ...]] = {}
        for ident, fact in repaired:
            by_set[ident] = (*by_set.get(ident, ()), fact)
        return Composition(delta_of(ridges, differences), by_set)

    def _add(self, ident: SetId, statistics: Statistics) -> None:
        self._facts[ident] = statistics.fact_T
        if len(statistics.fact_T) == 0:
            return
        parts = {f"{n}:keys": rows.keys_TU for n, rows in statistics.modules.items()}
        parts |= {f"{n}:differences": rows.differences_TV for n, rows in statistics.modules.items()}
        self._rows.change(ident, parts)
        groups = statistics.preserved.groups
        self._groups[ident] = tuple(group.key for group in groups)
        split = {
            name: torch.split(keys_PU, [group.rows for group in groups]) if groups else ()
            for name, keys_PU in statistics.preserved.keys.items()
        }
        for number, group in enumerate(groups):
            if self._users.setdefault(group.key, 0) == 0:
                self._preserved.change(group.key, {name: parts[number] for name, parts in split.items()})
            self._users[group.key] += 1

    def _drop(self, ident: SetId) -> None:
        if len(self._facts.pop(ident)):
            self._rows.change(ident, {})
        for key in self._groups.pop(ident, ()):
            self._users[key] -= 1
            if not self._users[key]:
                self._preserved.change(key, {})

    def _ridges(self, keys: Mapping[str, Tensor]) -> dict[str, Ridge]:
        place = self.base.memory.device_for(sum(2 * 8 * each.numel() for each in keys.values()))
        preserved = self._preserved.rows or None
        regularisers = self._editor.regularisers(place, sum(self._rows.counts), preserved)
        noise = self._editor.plan.noise
        return {name: Ridge.of(keys_TU, regularisers[name], noise) for name, keys_TU in keys.items()}

    def _outgrown(self) -> set[SetId]:
        """Sets that were solved with a much lighter prior than all live rows have together."""
        plan = self._editor.plan
        most = plan.prior_of(sum(self._rows.counts)) / OUTGROWN
        own = zip(self._rows.owners, self._rows.counts, strict=True)
        return {ident for ident, rows in own if plan.prior_of(rows) < most}

    def _places(self) -> list[Place]:
        """The set and the fact of each row."""
        return [(ident, int(fact)) for ident in self._rows.owners for fact in self._facts[ident]]


class _Table:
    """The rows of all live facts, one under the other; facts are numbered through."""

    def __init__(
        self,
        places: Sequence[Place],
        keys: Mapping[str, Tensor],
        differences: dict[str, Tensor],
        ridges: Mapping[str, Ridge],
        outgrown: set[SetId],
    ) -> None:
        self.facts = list(dict.fromkeys(places))
        number = {place: i for i, place in enumerate(self.facts)}
        self.owner_T = torch.tensor([number[place] for place in places], dtype=torch.int64)
        self.outgrown = {i for i, (ident, _) in enumerate(self.facts) if ident in outgrown}
        sets = {ident: i for i, ident in enumerate(dict.fromkeys(ident for ident, _ in self.facts))}
        set_T = torch.tensor([sets[ident] for ident, _ in places], dtype=torch.int64)
        self.rows_of_sets = [(set_T == i).nonzero()[:, 0] for i in range(len(sets))]
        self.keys, self.differences, self.ridges = keys, differences, ridges

    def shifts(self) -> dict[str, Tensor]:
        """``S`` of each module."""
        return {name: ridge.shift(self.differences[name]) for name, ridge in self.ridges.items()}

    def disturbed(self, shifts: Mapping[str, Tensor]) -> set[int]:
        """Facts to which other sets give much, beside what their own gives them; and those of outgrown sets."""
        off_N = torch.zeros(len(self.facts), dtype=torch.float64)
        size_N = torch.zeros_like(off_N)
        for name, shift_UV in shifts.items():
            keys_TU = self.keys[name].to(shift_UV)
            others_TV = keys_TU @ shift_UV
            own_TV = torch.zeros_like(others_TV)
            projector_UT = self.ridges[name].projector()
            for rows in self.rows_of_sets:
                own_TV[rows] = keys_TU[rows] @ projector_UT[:, rows] @ self.differences[name][rows].to(own_TV)
            others_TV -= own_TV
            off_N.index_add_(0, self.owner_T, others_TV.square().sum(1).cpu())
            size_N.index_add_(0, self.owner_T, own_TV.square().sum(1).cpu())
        return self.outgrown | set((off_N > TOLERANCE**2 * size_N).nonzero()[:, 0].tolist())


def repair(
    base: BaseModel,
    editor: Editor,
    table: _Table,
    wanted: Mapping[SetId, bool],
    read_facts: FactReader,
    progress: Progress | None,
) -> list[Place]:
    """Refine the facts that the sum of some sets does not hold, to half the margin of an edit.

    Which facts those are shows in what the solution gives at their keys: linear algebra on rows that are kept,
    without a look at any text. Only they are run, and moved where they lack their margin, while all other rows
    stand still; then the others are looked at again.

    Returns:
        The facts that were run.
    """
    suspects: set[int] = set()
    shifts = table.shifts()
    base.lower_layers.forget()
    for _ in range(PASSES):
        found = table.disturbed(shifts) - suspects
        if not found:
            break
        suspects |= found
        some = sorted(suspects)
        rows_R = torch.isin(table.owner_T, torch.tensor(some)).nonzero()[:, 0]
        goals = _goals(base, [table.facts[i] for i in some], wanted, read_facts)
        free = {}
        for name, ridge in table.ridges.items():
            projector_UR = ridge.projector(rows_R)
            own_RV = table.differences[name][rows_R].to(projector_UR)
            still_UV = shifts[name] - projector_UR @ own_RV
            keys_RU = table.keys[name][rows_R]
            free[name] = FreeRows(keys_RU, projector_UR, own_RV, still_UV, editor.scales[name])
        row_N = _row_of_positions(base, editor, goals)
        wanted_Q = torch.full((len(goals.sequences),), editor.plan.margin / 2, dtype=torch.float64)
        moved = solve_rounds(base, editor, goals.sequences, row_N, free, wanted_Q, progress=progress).rows
        for name, each in moved.items():
            table.differences[name] = table.differences[name].index_copy(0, rows_R, each.differences_RV.cpu())
            shifts[name] = each.shift_UV
    return [table.facts[i] for i in sorted(suspects)]


def _goals(
    base: BaseModel,
    places: Sequence[Place],
    wanted: Mapping[SetId, bool],
    read_facts: FactReader,
) -> Goals:
    """The goals of some facts, in their order, each set's with its rephrasings if it was edited so."""
    asked: dict[SetId, list[int]] = {}
    for ident, fact in places:
        asked.setdefault(ident, []).append(fact)
    texts = read_facts(asked)
    sequences: list[Encoded] = []
    owners: list[int] = []
    count = 0
    for ident, numbers in asked.items():
        own = edit_goals(base, list(texts[ident]), edit_on_rephrasings=wanted[ident], closed=True)
        sequences += own.sequences
        owners += [count + fact for fact in own.fact_of]
        count += len(numbers)
    return Goals(tuple(sequences), tuple(owners))


def _row_of_positions(base: BaseModel, editor: Editor, goals: Goals) -> Tensor:
    positions = [len(edited_positions(base, each, editor.plan.where)) for each in goals.sequences]
    goal_N = torch.tensor([i for i, count in enumerate(positions) for _ in range(count)], dtype=torch.int64)
    return rows_of(goals, goal_N)[0]

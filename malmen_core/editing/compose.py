"""Composing: from the statistics of all live sets to one delta, whatever their history.

The delta is a function of the live facts alone: sets are stacked in the order of their digests, or summed
exactly (`sums`), and what the sum spoils is repaired (`repair`). With no more rows than input features, the
dual form is solved and the delta is low-rank; with more, the primal form of the sums, which do not grow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from malmen_core.editing.balance import balanced
from malmen_core.editing.editor import Editor
from malmen_core.editing.parts import Part, SetId
from malmen_core.editing.refinement import Progress
from malmen_core.editing.repair import FactReader, repair
from malmen_core.editing.ridge import Regulariser
from malmen_core.editing.statistics import Statistics
from malmen_core.editing.sums import add_all, new_sums
from malmen_core.editing.systems import Primal, System, delta_of, systems_of
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta

StatisticsReader = Callable[[str], Statistics]
"""Gives statistics by digest."""


@dataclass(frozen=True)
class Composition:
    """The outcome.

    Attributes:
        delta: of all live facts.
        repaired: the facts whose value differences were moved by repair, by set.
    """

    delta: Delta
    repaired: Mapping[SetId, tuple[int, ...]]


class Composer:
    """Composes versions of one base. Not thread-safe.

    What it keeps of the live sets between calls makes it fast, and changes no result.
    """

    def __init__(self, base: BaseModel, editor: Editor) -> None:
        self._base, self._editor = base, editor
        self._parts: dict[SetId, Part] = {}
        self._sums = new_sums(editor.network.shapes)
        self._summed: set[SetId] = set()

    def compose(
        self,
        wanted: Mapping[SetId, bool],
        read_statistics: StatisticsReader,
        read_facts: FactReader,
        progress: Progress | None = None,
    ) -> Composition:
        """Solve for some sets together, and repair what their sum does not hold.

        Args:
            wanted: the live sets, and whether each was edited with its rephrasings.
            read_statistics: gives a set's statistics, with all of its facts.
            read_facts: gives the facts that may need repair.
            progress: told ``("solving", sets done, sets)`` and what refinement reports; may raise to abort.

        Raises:
            NotFiniteError: the statistics or the solution are infinite or NaN.
        """
        parts: Mapping[SetId, Part] = self._read(wanted, read_statistics, progress)
        if not parts:
            return Composition(Delta.empty(), {})
        features = min(inputs for inputs, _ in self._editor.network.shapes.values())
        if sum(part.rows for part in parts.values()) <= features:
            systems: Mapping[str, System] = self._stack(parts, read_statistics)
        else:
            systems = self._sum(parts, read_statistics)
        if self._editor.plan.refinement.rounds > 0:
            whole = balanced(parts, systems, self._editor.plan.refinement)
            parts, systems = whole.parts, whole.systems
        margin = torch.tensor(self._editor.plan.refinement.margin / 2, dtype=torch.float64)
        outcome = repair(self._base, self._editor, parts, systems, margin, read_facts, progress)
        return Composition(delta_of(systems, outcome.moved), outcome.facts)

    def _read(
        self, wanted: Mapping[SetId, bool], read: StatisticsReader, progress: Progress | None
    ) -> dict[SetId, Part]:
        """The parts in canonical order, without those of which nothing is left; others are forgotten."""
        kept: dict[SetId, Part] = {}
        for number, ident in enumerate(sorted(wanted), start=1):
            part = self._parts.get(ident)
            if part is None:
                part = Part.of(self._editor, _live(ident, read), wanted[ident])
            kept[ident] = part
            if progress is not None:
                progress("solving", number, len(wanted))
        self._parts = kept
        return {ident: part for ident, part in kept.items() if part.rows}

    def _stack(self, parts: Mapping[SetId, Part], read: StatisticsReader) -> dict[str, System]:
        stacked = Statistics.sum([_live(ident, read) for ident in parts])
        return systems_of(stacked.modules, self._regularisers(parts))

    def _sum(self, parts: Mapping[SetId, Part], read: StatisticsReader) -> dict[str, System]:
        if len(self._summed ^ parts.keys()) > len(parts):
            self._forget_sums()
        try:
            for ident in sorted(self._summed ^ parts.keys()):
                add_all(self._sums, _live(ident, read), -1 if ident in self._summed else 1)
                self._summed ^= {ident}
        except BaseException:
            self._forget_sums()  # one that was half added
            raise
        regularisers = self._regularisers(parts)
        return {n: Primal.of(s.gram(), s.product(), regularisers[n]) for n, s in self._sums.items()}

    def _regularisers(self, parts: Mapping[SetId, Part]) -> Mapping[str, Regulariser]:
        return self._editor.regularisers_of(sum(part.facts for part in parts.values()))

    def _forget_sums(self) -> None:
        self._sums, self._summed = new_sums(self._editor.network.shapes), set()


def _live(ident: SetId, read: StatisticsReader) -> Statistics:
    digest, left_out = ident
    statistics = read(digest)
    return statistics.without(left_out) if left_out else statistics

"""Repair: facts that the sum of sets spoils are moved, together and from the sum, as little as will do.

Two facts of one subject have nearly the same key, so in a sum of sets that were refined apart each gets only
its share of the module's output. Which facts are affected shows in what the solution gives at their keys,
compared with what their set gave alone: linear algebra on rows that are kept, without a look at any text.
Only those facts are run, and moved if they fall short (`least_change`). When so much was edited that the sum
disturbs any text, or the facts have only just been edited, all of them are run. Of all that was passed
through, what lacks the least is kept. All of it follows from the live facts in their canonical order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from malmen_core.editing.editor import Editor
from malmen_core.editing.gauss_newton import STEP, Movable, holding, least_change
from malmen_core.editing.key_positions import off_sinks
from malmen_core.editing.parts import Part, SetId
from malmen_core.editing.prompts import EditPrompts, edit_prompts
from malmen_core.editing.refinement import Progress
from malmen_core.editing.systems import Moved, System
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import teacher_forced
from malmen_core.models.overlay import Weights, intercepting
from malmen_core.models.tokenization import Encoded

TOLERANCE = 0.1
"""A fact may be given so much else than its set gave alone, relative to that."""
QUIET = 0.05
"""So much may a module's output change on text that no edit is about, relative to its typical magnitude."""
PASSES = 4

FactReader = Callable[[Mapping[SetId, Sequence[int]]], Mapping[SetId, Sequence[Fact]]]
"""Gives the facts of some sets at some positions, in their order."""


@dataclass(frozen=True)
class Repair:
    """The outcome of a repair.

    Attributes:
        moved: by module; empty if nothing had to be done.
        facts: the facts that were moved, by set.
        margins: smallest margin of each fact that was run.
    """

    moved: Mapping[str, Moved]
    facts: Mapping[SetId, tuple[int, ...]]
    margins: Mapping[tuple[SetId, int], float]


class _Table:
    """The edited rows of all sets, one under the other; facts are numbered through.

    What sets asked for stays in `asked`; `differences` are what repair makes of it.
    """

    def __init__(self, parts: Mapping[SetId, Part], margin_N: Tensor) -> None:
        self.facts: list[tuple[SetId, int]] = []
        owners, places, offset = [], [], 0
        for ident, part in parts.items():
            kept, number_T = torch.unique(part.fact_T, return_inverse=True)
            owners.append(number_T + len(self.facts))
            places.append(part.place_T + offset)
            self.facts += [(ident, fact) for fact in kept.tolist()]
            offset += part.rows
        self.owner_T, self.place_T = torch.cat(owners), torch.cat(places)
        names = next(iter(parts.values())).modules
        rows = {name: [part.modules[name] for part in parts.values()] for name in names}
        self.keys = {name: torch.cat([r.keys_TU for r in rows[name]]) for name in names}
        self.asked = {name: torch.cat([r.differences_TV for r in rows[name]]).double() for name in names}
        self.differences = {name: each.clone() for name, each in self.asked.items()}
        self.alone = {name: torch.cat([r.alone_TV for r in rows[name]]) for name in names}
        self.wanted = dict(zip(self.facts, margin_N.expand(len(self.facts)).tolist(), strict=True))
        self.margins: dict[tuple[SetId, int], float] = {}
        self._kept = (float("inf"), self.differences, self.margins)

    def saw(self, owners: Sequence[int], margins: Sequence[float]) -> None:
        """Keep the smallest margin of each fact's sequences, in place of what was seen before."""
        smallest: dict[int, float] = {}
        for number, margin in zip(owners, margins, strict=True):
            smallest[number] = min(margin, smallest.get(number, margin))
        self.margins |= {self.facts[number]: margin for number, margin in smallest.items()}

    def keep_the_better(self) -> None:
        """Keep these differences if less is lacking than with those kept, or other facts were looked at."""
        lacking = sum(max(0.0, self.wanted[each] - seen) for each, seen in self.margins.items())
        least, _, margins = self._kept
        if lacking < least or len(self.margins) > len(margins):
            self._kept = lacking, dict(self.differences), dict(self.margins)

    def spoiled(self, shifts: Mapping[str, Tensor]) -> set[int]:
        """Facts for which the solution gives something other than their set did alone."""
        off_N = torch.zeros(len(self.facts), dtype=torch.float64)
        size_N = torch.zeros_like(off_N)
        for name, shift_UV in shifts.items():
            given_TV = self.keys[name].double() @ shift_UV
            off_N.index_add_(0, self.owner_T, (given_TV - self.alone[name]).square().sum(1))
            size_N.index_add_(0, self.owner_T, self.alone[name].square().sum(1))
        return set((off_N > TOLERANCE**2 * size_N).nonzero()[:, 0].tolist())

    def left(self, name: str, system: System, rows_T: Tensor) -> Tensor:
        """One module's projector at some of the rows."""
        return system.left(self.place_T[rows_T], self.keys[name][rows_T])

    def outcome(self, systems: Mapping[str, System]) -> Repair:
        """What has moved since the sets were asked for, by what was kept."""
        _, self.differences, self.margins = self._kept
        by = {name: each - self.asked[name] for name, each in self.differences.items()}
        rows_T = torch.stack([by_TV.any(1) for by_TV in by.values()]).any(0).nonzero()[:, 0]
        if len(rows_T) == 0:
            return Repair({}, {}, self.margins)
        moved = {
            name: Moved(self.place_T[rows_T], self.left(name, system, rows_T), by[name][rows_T])
            for name, system in systems.items()
        }
        facts: dict[SetId, tuple[int, ...]] = {}
        for number in torch.unique(self.owner_T[rows_T]).tolist():
            ident, fact = self.facts[number]
            facts[ident] = (*facts.get(ident, ()), fact)
        return Repair(moved, facts, self.margins)


def repair(
    base: BaseModel,
    editor: Editor,
    parts: Mapping[SetId, Part],
    systems: Mapping[str, System],
    margin_N: Tensor,
    read_facts: FactReader,
    progress: Progress | None = None,
    *,
    doubted: bool = False,
) -> Repair:
    """Move the facts that the sum of some sets does not hold.

    Args:
        base: the immutable base.
        editor: whose plan says how; a plan without refinement repairs nothing.
        parts: the live sets, in canonical order.
        systems: the solved equation of each module.
        margin_N: by how many nats each fact of the sets is to be held, in their order; or one for all.
        read_facts: gives the facts that may need repair.
        progress: as refinement reports it; may raise to abort.
        doubted: run every fact, also one that the sum leaves as its set gave it, or that stands alone.
    """
    if (len(parts) < 2 and not doubted) or editor.plan.refinement.rounds == 0:
        return Repair({}, {}, {})
    table = _Table(parts, margin_N)
    shifts = {name: system.shift_UV for name, system in systems.items()}
    everything = set(range(len(table.facts)))
    suspects, asked = set[int](), EditPrompts((), ())
    for left in reversed(range(PASSES + 1)):
        found = everything if doubted or not is_quiet(editor, shifts) else table.spoiled(shifts)
        if found - suspects:
            suspects |= found
            asked = _prompts(base, table, sorted(suspects), parts, read_facts)
        short, known_Q = _short(base, table, asked, shifts)
        table.keep_the_better()
        if not short.sequences or not left:
            break
        shifts = _push(base, editor, table, short, known_Q, systems, shifts, progress)
    return table.outcome(systems)


def is_quiet(editor: Editor, shifts: Mapping[str, Tensor]) -> bool:
    """Whether a shift leaves text that no edit is about alone: ``tr(S' C0 S)`` is small in every module."""
    if not editor.moments:
        return False
    for name, shift_UV in shifts.items():
        moment = editor.moments[name]
        known_RV = moment.factor_UR.to(shift_UV).T @ shift_UV
        change = (known_RV.square().sum() + moment.rest * shift_UV.square().sum()) / shift_UV.shape[1]
        if float(change) ** 0.5 > QUIET * editor.scales[name]:
            return False
    return True


def _short(
    base: BaseModel, table: _Table, asked: EditPrompts, shifts: Mapping[str, Tensor]
) -> tuple[EditPrompts, Tensor]:
    """All that is asked of the facts of which some sequence has not its margin, and each one's: Q."""
    with intercepting(Weights.shifted(base.modules, shifts)):
        scores = teacher_forced(base, asked.sequences)
    margins = [float(score.margin_A.min()) for score in scores]
    table.saw(asked.fact_of, margins)
    names = [table.facts[fact] for fact in asked.fact_of]
    kept = [i for i, fact in enumerate(names) if table.margins[fact] < table.wanted[fact]]
    prompts = EditPrompts(tuple(asked.sequences[i] for i in kept), tuple(asked.fact_of[i] for i in kept))
    return prompts, torch.tensor([margins[i] for i in kept], dtype=torch.float64)


def _push(
    base: BaseModel,
    editor: Editor,
    table: _Table,
    asked: EditPrompts,
    known_Q: Tensor,
    systems: Mapping[str, System],
    shifts: Mapping[str, Tensor],
    progress: Progress | None,
) -> dict[str, Tensor]:
    """Move the rows of the facts that are asked for, all others standing still; gives the new shifts."""
    rows_T = torch.isin(table.owner_T, torch.tensor(asked.fact_of)).nonzero()[:, 0]
    movable = {}
    for name, system in systems.items():
        left_UR = table.left(name, system, rows_T)
        start_RV = table.differences[name][rows_T]
        got = float((table.keys[name][rows_T] * left_UR.T).sum(1).mean())
        unit = editor.plan.edited_weight * editor.scales[name] / got
        bound = editor.plan.refinement.bound * unit
        movable[name] = Movable(left_UR, start_RV, shifts[name] - left_UR @ start_RV, bound, STEP * unit)
    sequences = off_sinks(base, editor, asked.sequences)
    wanted = [table.wanted[table.facts[fact]] for fact in asked.fact_of]
    goal = holding(editor.plan.where, torch.tensor(wanted, dtype=torch.float64), known_Q)
    moved = least_change(base, goal, movable, sequences, progress)
    for name, each in moved.items():
        table.differences[name] = table.differences[name].index_copy(0, rows_T, each.differences_RV.cpu())
    return {name: each.shift_UV for name, each in moved.items()}


def _prompts(
    base: BaseModel,
    table: _Table,
    suspects: Sequence[int],
    parts: Mapping[SetId, Part],
    read_facts: FactReader,
) -> EditPrompts:
    """Each suspect's prompts with its target, and the number of its fact."""
    asked: dict[SetId, list[int]] = {}
    numbers: dict[SetId, list[int]] = {}
    for number in suspects:
        ident, fact = table.facts[number]
        asked.setdefault(ident, []).append(fact)
        numbers.setdefault(ident, []).append(number)
    sequences: list[Encoded] = []
    owners: list[int] = []
    for ident, facts in read_facts(asked).items():
        prompts = edit_prompts(base, facts, edit_on_rephrasings=parts[ident].edit_on_rephrasings)
        sequences += prompts.sequences
        owners += [numbers[ident][index] for index in prompts.fact_of]
    return EditPrompts(tuple(sequences), tuple(owners))

"""Editing: from facts to statistics on the base model, and from statistics to a delta."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise

import torch

from malmen_core.editing.balance import balanced
from malmen_core.editing.editor import Editor
from malmen_core.editing.group import Group, check_finite, edit_group
from malmen_core.editing.outcome import Outcome, Standing, outcomes
from malmen_core.editing.parts import Part, SetId
from malmen_core.editing.prompts import edit_prompts
from malmen_core.editing.refinement import Progress
from malmen_core.editing.repair import repair
from malmen_core.editing.statistics import Rows, Statistics, kept
from malmen_core.editing.systems import delta_of, systems_of
from malmen_core.errors import FactError
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from malmen_core.models.lanes import side_by_side


@dataclass(frozen=True)
class Edited:
    """What editing some facts gave.

    Attributes:
        statistics: ``K`` and ``D``.
        outcomes: what became of each fact.
    """

    statistics: Statistics
    outcomes: tuple[Outcome, ...]


def compute_statistics(
    base: BaseModel,
    editor: Editor,
    facts: Sequence[Fact],
    *,
    edit_on_rephrasings: bool = False,
    progress: Progress | None = None,
    batch_tokens: int | None = None,
) -> Statistics:
    """The statistics that `edit` gives for these arguments."""
    edited = edit(
        base,
        editor,
        facts,
        edit_on_rephrasings=edit_on_rephrasings,
        progress=progress,
        batch_tokens=batch_tokens,
    )
    return edited.statistics


def edit(
    base: BaseModel,
    editor: Editor,
    facts: Sequence[Fact],
    *,
    edit_on_rephrasings: bool = False,
    progress: Progress | None = None,
    batch_tokens: int | None = None,
) -> Edited:
    """``K`` and ``D`` of a set of facts: captured on the base, predicted, then refined on the model.

    Depends on the base, the editor and these facts only, never on other edit sets.

    Args:
        base: the immutable base.
        editor: made for that base.
        facts: at least one.
        edit_on_rephrasings: edit with the rephrasings too.
        progress: told ``("editing", done, total)``, each sequence counting twice, once in its group and once
            in the set; may raise to abort.
        batch_tokens: padded tokens of a language-model batch.

    Raises:
        EditorMismatch: the editor was made for another base.
        PromptTooLong: a prompt exceeds the context.
        NotFiniteError: a row came out infinite or NaN.
    """
    editor.check_fits(base.info)
    if not facts:
        raise FactError("An edit set without facts changes nothing.", "Give at least one fact.", "/facts")
    prompts = edit_prompts(base, facts, edit_on_rephrasings=edit_on_rephrasings)
    members_of = groups_of(editor, len(facts))
    if len(members_of) == 1 and len(facts) > 1:
        base = base.undrafted  # a draft's rounding is not far below what a few facts' margins are
    tally = _Tally(progress, 2 * len(prompts.sequences))
    assert editor.regularisers  # made once, before lanes need it
    assert base.draft  # likewise

    def edit_some(members: range) -> Group:
        some, told = [facts[i] for i in members], tally.of(members)
        return edit_group(
            base, editor, some, prompts.of(members), members.start, len(facts), told, batch_tokens
        )

    groups = side_by_side(base, edit_some, members_of)
    standing = [each for group in groups for each in group.standing]
    if editor.plan.refinement.rounds == 0:
        unknown = [None] * len(facts)
        return Edited(groups[0].statistics, outcomes(editor.plan.refinement, standing, unknown))
    parts = [group.statistics for group in groups]
    statistics, margins = _together(
        base, editor, parts, facts, standing, edit_on_rephrasings, len(prompts.sequences), progress
    )
    return Edited(statistics, outcomes(editor.plan.refinement, standing, margins))


def groups_of(editor: Editor, facts: int) -> list[range]:
    """The facts of each group: as many groups as come nearest to the plan's size, of like size."""
    plan = editor.plan
    count = max(1, round(facts / plan.group)) if plan.refinement.rounds > 0 else 1
    bounds = [facts * i // count for i in range(count + 1)]
    return [range(a, b) for a, b in pairwise(bounds)]


def _together(
    base: BaseModel,
    editor: Editor,
    groups: Sequence[Statistics],
    facts: Sequence[Fact],
    standing: Sequence[Standing],
    edit_on_rephrasings: bool,
    sequences: int,
    progress: Progress | None,
) -> tuple[Statistics, list[float]]:
    """The groups of a set summed, balanced, and repaired where some fact does not answer; and all margins."""
    idents: list[SetId] = [(f"{number:08d}", ()) for number in range(len(groups))]
    first = dict(zip(idents, accumulate((g.fact_count for g in groups), initial=0), strict=False))
    parts = {i: Part.of(editor, g, edit_on_rephrasings) for i, g in zip(idents, groups, strict=True)}
    stacked = Statistics.sum(groups)
    plan = editor.plan.refinement
    whole = balanced(parts, systems_of(stacked.modules, editor.regularisers_of(len(facts))), plan)

    def read_facts(asked: Mapping[SetId, Sequence[int]]) -> dict[SetId, list[Fact]]:
        return {ident: [facts[first[ident] + number] for number in some] for ident, some in asked.items()}

    def told(stage: str, done: int, asked: int) -> None:
        if progress is not None:
            progress(stage, 2 * sequences - asked + done, 2 * sequences)

    margin_N = torch.tensor([each.margin for each in standing], dtype=torch.float64)
    found = repair(base, editor, whole.parts, whole.systems, margin_N, read_facts, told, doubted=True)
    told("editing", 0, 0)
    rows = {}
    for name, each in stacked.modules.items():
        differences_TV = whole.gains[name] * each.differences_TV
        if name in found.moved:
            moved = found.moved[name]
            differences_TV = differences_TV.index_add(0, moved.place_T, moved.by_TV.to(differences_TV))
        rows[name] = Rows(each.keys_TU, kept(differences_TV / plan.strength(len(facts)), base.dtype))
    check_finite(rows)
    in_order = [(i, n) for i, g in zip(idents, groups, strict=True) for n in range(g.fact_count)]
    return replace(stacked, modules=rows), [found.margins[each] for each in in_order]


class _Tally:
    """Progress of groups, which may be edited side by side, as progress of their set."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total = progress, total
        self._done: dict[range, int] = {}
        self._lock = threading.Lock()

    def of(self, members: range) -> Progress | None:
        """Progress of the group with these facts."""
        if self._progress is None:
            return None
        return partial(self._tell, self._progress, members)

    def _tell(self, progress: Progress, members: range, stage: str, done: int, _: int) -> None:
        with self._lock:
            self._done[members] = done
            progress(stage, sum(self._done.values()), self._total)


def solve(editor: Editor, statistics: Statistics) -> Delta:
    """The delta of some statistics: ``S = (K'K + M)⁻¹ K'D`` for each module, as factors or dense.

    `D` is taken at the strength of so many facts (`RefinementPlan.strength`). No rows at all give the empty
    delta, which is the base itself.

    Raises:
        NotFiniteError: the statistics or a factor are infinite or NaN.
    """
    check_finite(statistics.modules)
    if len(statistics.fact_T) == 0:
        return Delta.empty()
    facts = len(torch.unique(statistics.fact_T))
    strength = editor.plan.refinement.strength(facts)
    systems = systems_of(statistics.modules, editor.regularisers_of(facts))
    return delta_of({name: system.scaled(strength) for name, system in systems.items()}, {})

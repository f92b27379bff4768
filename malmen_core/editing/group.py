"""Facts that are edited together, alone on the base: captured, predicted, refined, held by anchors.

Refinement asks for more than it gets, since anchors and prior pull at a fact's rows; in a sum with other
facts, more of them would pull. So what is kept is what the module then gave at each edited token, as a row
that outweighs what pulls: whichever facts join, the sum gives there what refinement found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from malmen_core.editing.balance import gain
from malmen_core.editing.capture import Captured, capture
from malmen_core.editing.crowding import crowding
from malmen_core.editing.editor import Editor, EditPlan
from malmen_core.editing.gauss_newton import STEP, Goal, Movable, at_bound, holding, least_change
from malmen_core.editing.held import held_prompts
from malmen_core.editing.hypernetwork import predict
from malmen_core.editing.key_positions import off_sinks
from malmen_core.editing.outcome import Standing, standings
from malmen_core.editing.preserved import Neighbour, anchored, neighbours
from malmen_core.editing.prompts import EditPrompts
from malmen_core.editing.refinement import Progress
from malmen_core.editing.ridge import Regulariser, projector
from malmen_core.editing.statistics import Rows, Statistics, kept
from malmen_core.editing.subjects import Subject, subject_of
from malmen_core.errors import NotFiniteError
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel

GOAL = 2.0
"""So many margins are gone for, since joining other facts costs some of them."""
DAMPING = 0.01


@dataclass(frozen=True)
class Group:
    """What editing some facts alone gave.

    Attributes:
        statistics: ``K`` and ``D``.
        standing: how each fact stands.
    """

    statistics: Statistics
    standing: tuple[Standing, ...]


def edit_group(
    base: BaseModel,
    editor: Editor,
    facts: Sequence[Fact],
    prompts: EditPrompts,
    first: int,
    together: int,
    progress: Progress | None,
    batch_tokens: int | None,
) -> Group:
    """Edit some of the `together` facts of a set, alone on the base; `first` is the number of the first."""
    plan = editor.plan
    strength = plan.refinement.strength(together)
    prompts = replace(prompts, sequences=off_sinks(base, editor, prompts.sequences))
    # the base's own pass, not its draft's, since the keys are kept
    captured, sequence_T = capture(base, prompts.sequences, plan.where, batch_tokens=batch_tokens)
    fact_T = torch.tensor(prompts.fact_of, dtype=torch.int64)[sequence_T]
    around = neighbours_of(editor, facts, captured, fact_T)
    anchors = anchored(base.draft, around, plan.anchor_rank).joined(held_prompts(base, facts, first))
    keys = {name: torch.cat([c.keys_TU, anchors.keys[name].to(c.keys_TU)]) for name, c in captured.items()}
    keys = {name: kept(keys_TU, base.dtype).to(keys_TU) for name, keys_TU in keys.items()}
    differences = first_guess(editor, captured)
    check_finite({name: _rows(keys[name], differences[name]) for name in keys})
    subjects = [_keyed(editor, fact) for fact in facts]
    crowding_F = crowding(captured, fact_T, len(facts), anchors, editor.regularisers)
    margins = [plan.refinement.margin_of(together, each) for each in crowding_F.tolist()]
    standing = tuple(
        Standing(subject, m, None, bounded=False) for subject, m in zip(subjects, margins, strict=True)
    )
    if plan.refinement.rounds > 0:
        edited, regularisers = slice(len(fact_T)), editor.regularisers_of(len(facts))
        projectors = {name: projector(keys_TU, regularisers[name], edited) for name, keys_TU in keys.items()}
        margin_Q = torch.tensor(margins, dtype=torch.float64)[list(prompts.fact_of)]
        refined = _roughly(base, editor, margin_Q, prompts, projectors, differences, progress, batch_tokens)
        if together > len(facts):
            refined = _held(base, editor, margin_Q, prompts, refined, progress, batch_tokens)
        own = {name: keys_TU[edited] for name, keys_TU in keys.items()}
        at_bound_T = torch.stack([at_bound(each.differences_RV, each.bound) for each in refined.values()])
        standing = standings(
            facts, subjects, margins, own, projectors, at_bound_T.any(0).cpu(), fact_T, first
        )
        for name, keys_TU in keys.items():
            given_TV = own[name].double() @ (projectors[name] @ refined[name].differences_RV.cpu())
            keys[name], asked_TV = _weighty(plan, regularisers[name], keys_TU, given_TV)
            differences[name] = (asked_TV / strength).to(differences[name])
    rows = {name: _rows(keys[name], kept(differences[name], base.dtype)) for name in keys}
    check_finite(rows)
    return Group(Statistics(rows, torch.cat([fact_T, anchors.fact_T]), len(facts)), standing)


def _weighty(
    plan: EditPlan, regulariser: Regulariser, keys_TU: Tensor, given_TV: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows that outweigh what pulls: keys, and differences that give `given_TV` on average."""
    count = len(given_TV)
    weights_T = torch.full((len(keys_TU), 1), plan.anchor_weight).index_fill_(
        0, torch.arange(count), plan.edited_weight
    )
    weighted_TU = kept(weights_T * keys_TU, keys_TU.dtype).to(keys_TU)
    wanted_TV = plan.edited_weight * given_TV
    left_UT = projector(weighted_TU, regulariser, slice(count))
    return weighted_TU, wanted_TV * gain(wanted_TV, weighted_TU[:count].double() @ (left_UT @ wanted_TV))


def _roughly(
    base: BaseModel,
    editor: Editor,
    margin_Q: Tensor,
    prompts: EditPrompts,
    projectors: Mapping[str, Tensor],
    differences: Mapping[str, Tensor],
    progress: Progress | None,
    batch_tokens: int | None,
) -> dict[str, Movable]:
    """Rows refined from a first guess towards a margin, to the smallest of all that would give it."""
    plan = editor.plan.refinement
    place = base.room.place(sum(left_UT.nbytes for left_UT in projectors.values()))
    rows = {}
    for name, left_UT in projectors.items():
        left_UR, unit = left_UT.to(place), editor.scales[name]
        start_RV = differences[name].to(left_UR)
        still_UV = left_UR.new_zeros(1, 1).expand(len(left_UR), start_RV.shape[1])  # of no size
        rows[name] = Movable(left_UR, start_RV, still_UV, plan.bound * unit, plan.step * unit)
    aim_Q = GOAL * margin_Q
    rough = Goal(editor.plan.where, aim_Q, aim_Q, plan.way, DAMPING, plan.rounds, whole=True)
    return least_change(base, rough, rows, prompts.sequences, progress, batch_tokens)


def _held(
    base: BaseModel,
    editor: Editor,
    margin_Q: Tensor,
    prompts: EditPrompts,
    rows: Mapping[str, Movable],
    progress: Progress | None,
    batch_tokens: int | None,
) -> dict[str, Movable]:
    """Rows of a part of a set, brought to the margin itself.

    What is missing in the sum of parts is repaired there, where anchors count for little. What is no part is
    repaired by itself.
    """
    rows = {name: replace(each, step=STEP * editor.scales[name]) for name, each in rows.items()}
    return least_change(
        base, holding(editor.plan.where, margin_Q), rows, prompts.sequences, progress, batch_tokens
    )


def _keyed(editor: Editor, fact: Fact) -> Subject:
    """The subject at which a fact's keys are taken, unless the plan wants those at its answer."""
    return subject_of(fact) if editor.plan.where == "subject" else Subject(None, "answer")


def neighbours_of(
    editor: Editor, facts: Sequence[Fact], captured: Mapping[str, Captured], fact_T: Tensor
) -> list[list[Neighbour]]:
    """Neighbours by fact, about names of its subject's kind, which the first module's key tells."""
    keys_TU = next(iter(captured.values())).keys_TU
    first = [int((fact_T == number).nonzero()[0]) for number in range(len(facts))]
    return [
        neighbours(
            fact.prompt, subject_of(fact).text, editor.kinds.nearest(keys_TU[row]), editor.plan.anchors
        )
        for fact, row in zip(facts, first, strict=True)
    ]


def _rows(keys_TU: Tensor, differences_TV: Tensor) -> Rows:
    """Rows whose last ones, the anchors', have a difference of zero."""
    held = differences_TV.new_zeros(len(keys_TU) - len(differences_TV), differences_TV.shape[1])
    return Rows(keys_TU.float(), torch.cat([differences_TV, held]).float())


def first_guess(editor: Editor, captured: dict[str, Captured]) -> dict[str, Tensor]:
    """The hypernetwork's `D` by module: T × V."""
    keys = {name: rows.keys_TU for name, rows in captured.items()}
    gradients = {name: rows.gradients_TV for name, rows in captured.items()}
    return predict(editor.network, keys, gradients)


def check_finite(rows: Mapping[str, Rows]) -> None:
    """Refuse rows that no delta can be solved from.

    Raises:
        NotFiniteError: naming the module.
    """
    for name, part in rows.items():
        if not bool(torch.isfinite(part.keys_TU).all() and torch.isfinite(part.differences_TV).all()):
            raise NotFiniteError(f"The statistics of {name!r} are not finite.", "Edit fewer or other facts.")

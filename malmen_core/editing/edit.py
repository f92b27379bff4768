"""Editing: from facts to statistics on the base model, and from statistics to a delta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from malmen_core.editing.capture import capture
from malmen_core.editing.editor import Editor
from malmen_core.editing.gauss_newton import FreeRows, Progress, Solution, solve_rounds, weights_at
from malmen_core.editing.goals import Goals, edit_goals, question_goals
from malmen_core.editing.hypernetwork import predict
from malmen_core.editing.outcome import EditOutcome, outcomes
from malmen_core.editing.preserved import Preserved, preserved_keys
from malmen_core.editing.ridge import Ridge
from malmen_core.editing.statistics import Rows, Statistics, check_finite, to_storage
from malmen_core.errors import FactError, NotFiniteError
from malmen_core.facts import Fact
from malmen_core.generation.chat import chat_answers, holds
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Change, Delta
from malmen_core.models.overlay import intercepting


@dataclass(frozen=True)
class Edited:
    """What editing some facts gave.

    Attributes:
        statistics: ``K``, ``D`` and ``A``.
        outcomes: what became of each fact.
    """

    statistics: Statistics
    outcomes: tuple[EditOutcome, ...]


def edit(
    base: BaseModel,
    editor: Editor,
    facts: Sequence[Fact],
    *,
    edit_on_rephrasings: bool = False,
    progress: Progress | None = None,
    batch_tokens: int | None = None,
) -> Edited:
    """``K``, ``D`` and ``A`` of a set of facts, all solved together on the base.

    Depends on the base, the editor and these facts only, never on other edit sets.

    Args:
        base: the immutable base.
        editor: made for that base.
        facts: at least one.
        edit_on_rephrasings: edit with the rephrasings too.
        progress: told ``("editing", done, total)``; may raise to abort.
        batch_tokens: padded tokens of a language-model batch.

    Raises:
        EditorMismatch: the editor was made for another base.
        PromptTooLong: a prompt exceeds the context.
        NotFiniteError: a row came out infinite or NaN.
    """
    editor.check_fits(base.info)
    if not facts:
        raise FactError("An edit set without facts changes nothing.", "Give at least one fact.", "/facts")
    plan = editor.plan
    base.lower_layers.forget()
    goals = edit_goals(base, facts, edit_on_rephrasings=edit_on_rephrasings, closed=plan.rounds > 0)
    preserved = Preserved.none(editor.network.shapes)
    if plan.preserved_weight > 0:
        preserved = preserved_keys(base, facts, plan.neighbours, plan.preserved_rank)
    first = capture(base, goals.sequences, plan.where, batch_tokens=batch_tokens)
    row_N, owner_R, kept_R = rows_of(goals, first.sequence_T.cpu())
    keys = {name: to_storage(keys_NU[kept_R.to(keys_NU.device)]) for name, keys_NU in first.keys.items()}
    check_finite(keys)  # nothing can be solved for others
    # what the base answers by itself is left alone, as long as the edit of other facts lets it
    known_F = smallest_margins(goals, first.margin_Q.cpu()) > 0
    wanted_F = torch.where(known_F, 0.0, plan.margin_of(len(facts))).double()
    free: Mapping[str, FreeRows] = {}
    if plan.rounds == 0:
        differences = predict(editor.network, first.keys, first.gradients)
        margin_Q = first.margin_Q.cpu()
    else:
        place = base.memory.device_for(sum(2 * 8 * each.numel() for each in keys.values()))
        regularisers = editor.regularisers(place, len(owner_R), preserved.keys)
        ridges = {name: Ridge.of(each, regularisers[name], plan.noise) for name, each in keys.items()}
        still = {
            name: FreeRows.at_rest(ridge, base.modules[name].shape[1], editor.scales[name])
            for name, ridge in ridges.items()
        }
        wanted_Q = wanted_F[list(goals.fact_of)]
        reach = partial(solve_rounds, base, editor, progress=progress, batch_tokens=batch_tokens)
        solution = reach(goals.sequences, row_N, still, wanted_Q, first=first)
        asked = Goals((), ())
        if plan.where == "subject" and any(fact.question is not None for fact in facts):
            asked = _unanswered(base, facts, solution)
        if asked.sequences:
            own_N = torch.tensor([owner_R.tolist().index(fact) for fact in asked.fact_of])
            half_Q = torch.full((len(own_N),), plan.margin / 2, dtype=torch.float64)
            both = [*goals.sequences, *asked.sequences]
            solution = reach(both, torch.cat((row_N, own_N)), solution.rows, torch.cat((wanted_Q, half_Q)))
        free, margin_Q = solution.rows, solution.margin_Q[: len(goals.sequences)]
        differences = {name: rows.differences_RV for name, rows in free.items()}
    rows = {name: Rows(keys[name], to_storage(differences[name])) for name in keys}
    statistics = Statistics(rows, owner_R, len(facts), preserved).check_finite()
    return Edited(
        statistics, outcomes(plan, facts, smallest_margins(goals, margin_Q), wanted_F, known_F, owner_R, free)
    )


def _unanswered(base: BaseModel, facts: Sequence[Fact], solution: Solution) -> Goals:
    """The questions whose free answer lacks the target, once the prompts have been edited.

    Most answers follow from the prompts. To move all questions would cost neighbours, and prompts too: moved
    together from the start, both pull at the same rows from where gradients tell little.
    """
    with intercepting(weights_at(base, solution.rows)):
        answers = chat_answers(base, facts)
    pairs = enumerate(zip(facts, answers, strict=True))
    missed = [i for i, (fact, answer) in pairs if answer is not None and not holds(answer, fact.target)]
    return question_goals(base, facts, missed)


def smallest_margins(goals: Goals, margin_Q: Tensor) -> Tensor:
    """The smallest margin of each fact's goals: F, float64."""
    owner_Q = torch.tensor(goals.fact_of)
    start_F = torch.full((int(owner_Q.max()) + 1,), torch.inf, dtype=torch.float64)
    return start_F.scatter_reduce(0, owner_Q, margin_Q, "amin")


def rows_of(goals: Goals, goal_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which row each edited position of some goals moves.

    The first goal of a fact has rows of its own. Another form of the fact moves the same rows, if it is edited
    at as many positions, else rows of its own.

    Returns:
        The row of each position (N), the fact of each row (R), and the position that each row is from (R).
    """
    counts = torch.bincount(goal_N, minlength=len(goals.sequences)).tolist()
    row_N: list[int] = []
    owners: list[int] = []
    kept: list[int] = []
    first: dict[int, tuple[int, int]] = {}
    for fact, count in zip(goals.fact_of, counts, strict=True):
        start, width = first.get(fact, (len(owners), -1))
        if width != count:
            start = len(owners)
            first.setdefault(fact, (start, count))
            kept += range(len(row_N), len(row_N) + count)
            owners += [fact] * count
        row_N += range(start, start + count)
    return tuple(torch.tensor(each, dtype=torch.int64) for each in (row_N, owners, kept))  # type: ignore[return-value]


def solve(base: BaseModel, editor: Editor, statistics: Statistics) -> Delta:
    """The delta of some statistics: ``S = P D`` for each module, as factors or dense.

    No rows at all give the empty delta, which is the base itself.

    Raises:
        NotFiniteError: the statistics or a factor are infinite or NaN.
    """
    statistics.check_finite()
    if len(statistics.fact_T) == 0:
        return Delta.empty()
    ridges = ridges_of(base, editor, statistics)
    return delta_of(ridges, {name: rows.differences_TV for name, rows in statistics.modules.items()})


def ridges_of(base: BaseModel, editor: Editor, statistics: Statistics) -> dict[str, Ridge]:
    """The normal equation of each module over all rows of some statistics."""
    place = base.memory.device_for(sum(2 * 8 * r.keys_TU.numel() for r in statistics.modules.values()))
    regularisers = editor.regularisers(place, len(statistics.fact_T), statistics.preserved.keys)
    return {
        name: Ridge.of(rows.keys_TU, regularisers[name], editor.plan.noise)
        for name, rows in statistics.modules.items()
    }


def delta_of(ridges: Mapping[str, Ridge], differences: Mapping[str, Tensor]) -> Delta:
    """The solution of each module's equation for some `D` (T × V).

    Raises:
        NotFiniteError: naming the module.
    """
    changes = {}
    for name, ridge in ridges.items():
        rank, inputs, outputs = *ridge.keys_TU.shape, differences[name].shape[1]
        if rank * (inputs + outputs) < inputs * outputs:
            factors = ridge.projector(), differences[name]
            changes[name] = Change(*(factor.float().cpu() for factor in factors))
        else:
            changes[name] = Change(dense_UV=ridge.shift(differences[name]).float().cpu())
        if not bool(torch.isfinite(changes[name].dense(torch.float32)).all()):
            raise NotFiniteError(f"The solution for {name!r} is not finite.", "Edit fewer or other facts.")
    return Delta(changes)

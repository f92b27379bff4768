"""Editing: from facts to statistics on the base model, and from statistics to a delta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from malmen_core.anchors import anchor_prompts, anchor_rows
from malmen_core.base import BaseModel
from malmen_core.batches import DEFAULT_BATCH_TOKENS
from malmen_core.capture import Captured, capture
from malmen_core.delta import Change, Delta
from malmen_core.editor import Editor
from malmen_core.errors import FactError, NotFiniteError
from malmen_core.facts import Fact
from malmen_core.hypernetwork import predict
from malmen_core.normal_equation import projector
from malmen_core.outcome import Outcome, outcomes, without_refinement
from malmen_core.refine import Progress, refine
from malmen_core.statistics import Rows, Statistics, rounded
from malmen_core.subjects import Subject, subject_of
from malmen_core.tokens import Encoded, check_length


@dataclass(frozen=True)
class EditPrompts:
    """The sequences that a set is edited with.

    Attributes:
        sequences: prompts with answers.
        fact_of: index of the fact of each sequence.
    """

    sequences: tuple[Encoded, ...]
    fact_of: tuple[int, ...]


def edit_prompts(base: BaseModel, facts: Sequence[Fact], *, edit_on_rephrasings: bool = False) -> EditPrompts:
    """Encode each fact's prompt, and on request its rephrasings, with its target.

    Raises:
        PromptTooLong: a prompt and its target exceed the context.
        FactError: a target without tokens, or a label that the classifier does not know.
    """
    sequences, owner = [], []
    for number, fact in enumerate(facts):
        subject = subject_of(fact).text
        for prompt in (fact.prompt, *(fact.rephrasings if edit_on_rephrasings else ())):
            encoded = base.encode(prompt, fact.target, subject)
            check_length(encoded, base.info.context_length, f"/facts/{number}/prompt")
            if not encoded.answer or encoded.answer_start == 0:
                raise FactError("Prompt or target has no tokens.", "Give both as text.", f"/facts/{number}")
            sequences.append(encoded)
            owner.append(number)
    return EditPrompts(tuple(sequences), tuple(owner))


@dataclass(frozen=True)
class Edited:
    """What editing a set gave.

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
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
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
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Edited:
    """``K`` and ``D`` of a set of facts: captured on the base, predicted, then refined on the model.

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
    prompts = edit_prompts(base, facts, edit_on_rephrasings=edit_on_rephrasings)
    captured, sequence_T = capture(
        base.draft, prompts.sequences, editor.plan.where, batch_tokens=batch_tokens
    )
    fact_T = torch.tensor(prompts.fact_of, dtype=torch.int64)[sequence_T]
    neighbours = anchors_of(editor, facts, captured, fact_T)
    anchors, anchor_fact_T = anchor_rows(base.draft, neighbours, editor.plan.anchor_rank)
    stored = rounded if base.dtype != torch.float64 else Tensor.float
    keys = {name: torch.cat([c.keys_TU, anchors[name].to(c.keys_TU)]) for name, c in captured.items()}
    keys = {name: stored(keys_TU).to(keys_TU) for name, keys_TU in keys.items()}
    differences = first_guess(editor, captured)
    _check_finite({name: _rows(keys[name], differences[name]) for name in keys})
    found = without_refinement([_keyed(editor, fact) for fact in facts])
    if editor.plan.refinement.rounds > 0:
        differences, found = _refined(
            base, editor, facts, prompts, keys, differences, fact_T, progress, batch_tokens
        )
    rows = {name: _rows(keys[name], stored(differences[name])) for name in keys}
    _check_finite(rows)
    return Edited(Statistics(rows, torch.cat([fact_T, anchor_fact_T]), len(facts)), found)


def _refined(
    base: BaseModel,
    editor: Editor,
    facts: Sequence[Fact],
    prompts: EditPrompts,
    keys: Mapping[str, Tensor],
    differences: Mapping[str, Tensor],
    fact_T: Tensor,
    progress: Progress | None,
    batch_tokens: int,
) -> tuple[dict[str, Tensor], tuple[Outcome, ...]]:
    """Refined differences, and what became of each fact."""
    plan = editor.plan.refinement
    projectors = {
        name: projector(keys_TU, editor.regularisers[name])[:, : len(fact_T)]
        for name, keys_TU in keys.items()
    }
    refined = refine(
        base,
        plan,
        projectors,
        differences,
        editor.scales,
        prompts.sequences,
        prompts.fact_of,
        fact_T,
        progress,
        batch_tokens,
    )
    margins = [float("inf")] * len(facts)
    for number, margin in zip(prompts.fact_of, refined.margins, strict=True):
        margins[number] = min(margins[number], margin)
    own = {name: keys_TU[: len(fact_T)] for name, keys_TU in keys.items()}
    subjects = [_keyed(editor, fact) for fact in facts]
    found = outcomes(
        plan, facts, subjects, margins, own, projectors, refined.differences, editor.scales, fact_T
    )
    return dict(refined.differences), found


def _keyed(editor: Editor, fact: Fact) -> Subject:
    """The subject at which a fact's keys are taken, unless the plan wants those at its answer."""
    return subject_of(fact) if editor.plan.where == "subject" else Subject(None, "answer")


def anchors_of(
    editor: Editor, facts: Sequence[Fact], captured: Mapping[str, Captured], fact_T: Tensor
) -> list[list[str]]:
    """Anchor prompts by fact, about names of its subject's kind, which the first module's key tells."""
    keys_TU = next(iter(captured.values())).keys_TU
    first = [int((fact_T == number).nonzero()[0]) for number in range(len(facts))]
    return [
        anchor_prompts(
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


def solve(editor: Editor, statistics: Statistics) -> Delta:
    """The delta of some statistics: ``S = (K'K + M)⁻¹ K'D`` for each module, as factors or dense.

    No rows at all give the empty delta, which is the base itself.

    Raises:
        NotFiniteError: the statistics or a factor are infinite or NaN.
    """
    _check_finite(statistics.modules)
    if len(statistics.fact_T) == 0:
        return Delta.empty()
    changes = {}
    for name, rows in statistics.modules.items():
        left_UT = projector(rows.keys_TU, editor.regularisers[name])
        changes[name] = Change.smaller(left_UT, rows.differences_TV)
        if not bool(torch.isfinite(left_UT).all()):
            raise NotFiniteError(f"The solution for {name!r} is not finite.", "Edit fewer or other facts.")
    return Delta(changes)


def _check_finite(rows: Mapping[str, Rows]) -> None:
    for name, part in rows.items():
        if not bool(torch.isfinite(part.keys_TU).all() and torch.isfinite(part.differences_TV).all()):
            raise NotFiniteError(f"The statistics of {name!r} are not finite.", "Edit fewer or other facts.")

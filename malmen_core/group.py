"""Facts that are edited together, alone on the base: captured, predicted, refined, held by anchors.

Refinement asks for more than it gets, since anchors and prior pull at a fact's rows; in a sum with other
facts, more of them would pull. So what is kept is what the module then gave at each edited token, as a row
that outweighs what pulls: whichever facts join, the sum gives there what refinement found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from malmen_core.anchors import anchor_prompts, anchor_rows
from malmen_core.base import BaseModel
from malmen_core.capture import Captured, capture
from malmen_core.editor import Editor
from malmen_core.errors import NotFiniteError
from malmen_core.facts import Fact
from malmen_core.hypernetwork import predict
from malmen_core.normal_equation import Regulariser, projector
from malmen_core.prompts import EditPrompts
from malmen_core.refine import Progress, refine
from malmen_core.statistics import Rows, Statistics, rounded


def group_statistics(
    base: BaseModel,
    editor: Editor,
    facts: Sequence[Fact],
    prompts: EditPrompts,
    progress: Progress | None,
    batch_tokens: int,
) -> Statistics:
    """Statistics of some facts that are refined together, alone on the base."""
    plan = editor.plan
    captured, sequence_T = capture(base.draft, prompts.sequences, plan.where, batch_tokens=batch_tokens)
    fact_T = torch.tensor(prompts.fact_of, dtype=torch.int64)[sequence_T]
    neighbours = anchors_of(editor, facts, captured, fact_T)
    anchors, anchor_fact_T = anchor_rows(base.draft, neighbours, plan.anchor_rank)
    stored = rounded if base.dtype != torch.float64 else Tensor.float
    keys = {name: torch.cat([c.keys_TU, anchors[name].to(c.keys_TU)]) for name, c in captured.items()}
    keys = {name: stored(keys_TU).to(keys_TU) for name, keys_TU in keys.items()}
    differences = first_guess(editor, captured)
    check_finite({name: _rows(keys[name], differences[name]) for name in keys})
    if plan.refinement.rounds > 0:
        edited = len(fact_T)
        projectors = {
            name: projector(keys_TU, editor.regularisers[name])[:, :edited] for name, keys_TU in keys.items()
        }
        refined = refine(
            base,
            plan.refinement,
            projectors,
            differences,
            editor.scales,
            prompts.sequences,
            prompts.fact_of,
            fact_T,
            progress,
            batch_tokens,
        )
        for name, keys_TU in keys.items():
            shift_UV = projectors[name] @ refined.differences[name].double()
            keys[name] = stored(_outweighing(keys_TU, edited, plan.edited_weight)).to(keys_TU)
            asked_TV = _asking_for(shift_UV, keys[name], edited, editor.regularisers[name])
            differences[name] = asked_TV.to(differences[name])
    rows = {name: _rows(keys[name], stored(differences[name])) for name in keys}
    check_finite(rows)
    return Statistics(rows, torch.cat([fact_T, anchor_fact_T]), len(facts))


def _outweighing(keys_TU: Tensor, edited: int, weight: float) -> Tensor:
    """The rows with the first ones, which are edited, scaled."""
    return torch.cat([weight * keys_TU[:edited], keys_TU[edited:]])


def _asking_for(shift_UV: Tensor, keys_TU: Tensor, edited: int, regulariser: Regulariser) -> Tensor:
    """The differences of edited rows for which their normal equation gives what a shift does there.

    ``H D = K S`` at the edited rows, with ``H = K (K'K + M)⁻¹ K'``; least squares where rows are alike.
    """
    asked_TU = keys_TU[:edited].double()
    given_TT = asked_TU @ projector(keys_TU, regulariser)[:, :edited]
    inverse_TT: Tensor = torch.linalg.pinv((given_TT + given_TT.T) / 2, rtol=1e-6, hermitian=True)
    return inverse_TT @ (asked_TU @ shift_UV)


def anchors_of(
    editor: Editor, facts: Sequence[Fact], captured: Mapping[str, Captured], fact_T: Tensor
) -> list[list[str]]:
    """Anchor prompts by fact, about names of its subject's kind, which the first module's key tells."""
    keys_TU = next(iter(captured.values())).keys_TU
    first = [int((fact_T == number).nonzero()[0]) for number in range(len(facts))]
    return [
        anchor_prompts(fact, editor.kinds.nearest(keys_TU[row]), editor.plan.anchors)
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

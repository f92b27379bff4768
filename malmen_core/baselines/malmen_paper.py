"""MALMEN as the paper has it (Tan, Zhang, Fu 2024): answer keys, the last layers, λI, one shot.

A configuration of this project's editor: no preservation prior, no anchors, no refinement. The hypernetwork
is untrained (the identity), with its normaliser fitted on made-up facts, unless a trained editor of this plan
is given in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

from malmen_core.editing.calibrate import probe
from malmen_core.editing.editor import Editor, EditPlan
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.editing.preserved import Kinds
from malmen_core.editing.refinement import Progress, RefinementPlan
from malmen_core.evaluation.methods import EditorMethod, Method
from malmen_core.models.base import BaseModel

PLAN = EditPlan("answer", 0.0, anchors=0, anchor_rank=0, refinement=RefinementPlan(rounds=0))


def edits_plainly(plan: EditPlan) -> bool:
    """Whether a plan edits as `PLAN` does: the other members say nothing without prior, anchors or rounds."""
    return (plan.where, plan.prior_weight, plan.anchors, plan.refinement.rounds) == ("answer", 0, 0, 0)


@dataclass(frozen=True)
class PlainMalmen:
    """The paper's own form.

    Attributes:
        step: η of every module.
        ridge: λ of every module.
        last: how many of the last layers are edited; the paper's six.
        seed: of the hypernetwork's first projections, which matter once it is trained.
    """

    name: ClassVar[str] = "malmen-plain"
    step: float = 1.0
    ridge: float = 1.0
    last: int = 6
    seed: int = 0

    def layers(self, depth: int) -> tuple[int, ...]:
        """The last ones."""
        return tuple(range(max(0, depth - self.last), depth))

    def editor(self, base: BaseModel) -> Editor:
        """The untrained editor, to use or to train."""
        card = {"kind": "the paper's own form, not trained", **asdict(self)}
        return initial_editor(base, self.step, self.ridge, self.seed, card)

    def prepare(self, base: BaseModel, progress: Progress | None = None) -> Method:  # noqa: ARG002
        """See `Baseline.prepare`."""
        return Named(self.editor(base), self.name, asdict(self))

    def trained(self, editor: Editor) -> Method:
        """With an editor of the paper's plan that has been trained."""
        return Named(editor, self.name, {"editor": editor.digest, "card": dict(editor.card)})


def initial_editor(
    base: BaseModel, step: float, ridge: float, seed: int, card: Mapping[str, object]
) -> Editor:
    """An editor of the paper's plan whose hypernetwork is the identity, fitted on made-up facts."""
    captured = probe(base, PLAN.where)
    network = HyperNetwork({name: module.shape for name, module in base.modules.items()}, seed=seed)
    network.fit_normaliser(
        {name: rows.keys_TU for name, rows in captured.items()},
        {name: rows.gradients_TV for name, rows in captured.items()},
    )
    network.log_step.data.fill_(math.log(step))
    network.log_ridge.data.fill_(math.log(ridge))
    scales = {
        name: float((rows.keys_TU @ base.modules[name].weight_UV.to(rows.keys_TU)).square().mean().sqrt())
        for name, rows in captured.items()
    }
    return Editor(
        base.info.architecture,
        base.info.digest,
        network.eval().requires_grad_(False),
        PLAN,
        {},
        scales,
        Kinds({}),
        {"source": base.info.title, **card},
    )


@dataclass(frozen=True)
class Named(EditorMethod):
    """An editor that goes by another name than its digest."""

    known_as: str
    tuned: dict[str, object]

    @property
    def name(self) -> str:
        """The baseline's name."""
        return self.known_as

    @property
    def settings(self) -> dict[str, object]:
        """The baseline's settings."""
        return self.tuned

"""The two forms in which a network is trained: this project's own, and the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from malmen_core.training.meta_loss import LossWeights
from malmen_core.training.trainer import TrainingPlan


@dataclass(frozen=True)
class Form:
    """What is trained, and how unless other options are given.

    Attributes:
        plan: of the training.
        method: the baseline whose modules, tokens and equation the editor has; None for the default editor's.
        settings: of that baseline.
    """

    plan: TrainingPlan
    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


FORMS: Mapping[str, Form] = {
    "errata": Form(TrainingPlan()),
    # the widest blocks with which a network of the default model's shapes stays below 20 MB in bfloat16
    "paper": Form(
        TrainingPlan(
            smallest_batch=16,
            largest_batch=256,
            loss=LossWeights(edit=0.5),
            batch_tokens=1024,
            mixed=True,
        ),
        "malmen-plain",
        {"rank": 1152, "above": 2},
    ),
}

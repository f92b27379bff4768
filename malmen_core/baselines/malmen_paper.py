"""MALMEN as the paper has it (Tan, Zhang, Fu 2024): answer keys, the last layers, λI, one shot.

A configuration of this project's editor: no preservation prior, no preserved keys, no rounds. The hypernetwork
is untrained (the identity), with its normaliser fitted on made-up facts, unless a trained editor of this plan
is given in its place.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from malmen_core.baselines.sequential import last_layers
from malmen_core.editing.calibrate import paper_editor
from malmen_core.editing.editor import Editor
from malmen_core.editing.gauss_newton import Progress
from malmen_core.evaluation.methods import EditorMethod, Method
from malmen_core.models.base import BaseModel


@dataclass(frozen=True)
class PlainMalmen:
    """The paper's own form.

    Attributes:
        step: η of every module.
        ridge: λ of every module.
        last: how many of the last layers are edited; the paper's six.
        above: how many layers above the edited ones are left alone.
        rank: of the hypernetwork's residual blocks; the paper's is 1920.
        seed: of the hypernetwork's first projections, which matter once it is trained.
    """

    name: ClassVar[str] = "malmen-plain"
    step: float = 1.0
    ridge: float = 1.0
    last: int = 6
    above: int = 0
    rank: int = 64
    seed: int = 0

    def layers(self, depth: int) -> tuple[int, ...]:
        """The last ones below those that are left alone."""
        return last_layers(depth, self.last, self.above)

    def editor(self, base: BaseModel) -> Editor:
        """The untrained editor, to use or to train."""
        return paper_editor(base, step=self.step, ridge=self.ridge, rank=self.rank, seed=self.seed)

    def prepare(self, base: BaseModel, progress: Progress | None = None) -> Method:  # noqa: ARG002
        """See `Baseline.prepare`."""
        return Named(self.editor(base), self.name, asdict(self))

    def trained(self, editor: Editor) -> Method:
        """With an editor of the paper's plan that has been trained."""
        return Named(editor, self.name, {"editor": editor.digest, "card": dict(editor.card)})


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

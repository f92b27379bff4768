"""What is measured: anything that turns edit sets into one delta, this project's editor or another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from malmen_core.editing.compose import Composer
from malmen_core.editing.edit import edit
from malmen_core.editing.editor import Editor
from malmen_core.editing.outcome import Outcome
from malmen_core.editing.parts import SetId
from malmen_core.editing.refinement import Progress
from malmen_core.editing.statistics import Statistics
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta

Sets = Sequence[Sequence[Fact]]


class Method(Protocol):
    """A way to edit one base model, ready to be used."""

    @property
    def name(self) -> str:
        """What it is called in results: an editor's digest, or a baseline's name."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was tuned with."""

    def edit(self, base: BaseModel, sets: Sets, progress: Progress | None = None) -> Delta:
        """The delta of some edit sets that came one after the other.

        Args:
            base: the immutable base that this was made for.
            sets: facts by edit set.
            progress: told ``(stage, done, total)``; may raise to abort.
        """


class Baseline(Protocol):
    """A published method with its settings, which has to get ready on a base model first."""

    name: ClassVar[str]

    def layers(self, depth: int) -> tuple[int, ...]:
        """Which of a model's layers it edits."""

    def prepare(self, base: BaseModel, progress: Progress | None = None) -> Method:
        """Compute what depends on the base model alone."""


@dataclass(frozen=True)
class EditorMethod:
    """The editor as the service uses it: each set's statistics alone on the base, then composed and repaired.

    Attributes:
        editor: made for the base.
    """

    editor: Editor

    @property
    def name(self) -> str:
        """The editor's digest."""
        return self.editor.digest

    @property
    def settings(self) -> Mapping[str, Any]:
        """The editor's plan."""
        return asdict(self.editor.plan)

    def edit(self, base: BaseModel, sets: Sets, progress: Progress | None = None) -> Delta:
        """See `Method.edit`."""
        return self.edit_with_outcomes(base, sets, progress)[0]

    def edit_with_outcomes(
        self, base: BaseModel, sets: Sets, progress: Progress | None = None
    ) -> tuple[Delta, list[Outcome]]:
        """The same, and what became of each fact in its own set, in order."""
        statistics: dict[str, Statistics] = {}
        facts_of: dict[str, Sequence[Fact]] = {}
        became: list[Outcome] = []
        for facts in sets:
            edited = edit(base, self.editor, facts, progress=progress)
            own = edited.statistics
            statistics[own.digest], facts_of[own.digest] = own, facts
            became += edited.outcomes

        def read_facts(asked: Mapping[SetId, Sequence[int]]) -> dict[SetId, list[Fact]]:
            return {ident: [facts_of[ident[0]][i] for i in places] for ident, places in asked.items()}

        wanted: dict[SetId, bool] = {(digest, ()): False for digest in statistics}
        composer = Composer(base, self.editor)
        return composer.compose(wanted, statistics.__getitem__, read_facts, progress).delta, became

"""A training run on disk: where it began, where it stands, and what was measured on the way.

``start.safetensors`` is the editor at step 0, ``state.safetensors`` all that later steps depend on, and
``metrics.jsonl`` one JSON object for each step and each validation. Files are replaced atomically, so a run
that is killed at any moment resumes from its last checkpoint, bit for bit.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from malmen_core.editing.editor import Editor
from malmen_core.errors import CheckpointMismatch, DeltaCorrupt
from malmen_core.serialization import pack, unpack


@dataclass(frozen=True)
class TrainingState:
    """Everything that the rest of a run depends on, besides the facts, the base and the start.

    The draws of a step are functions of the seed and of `step` and `position`, so no generator's state is
    needed.

    Attributes:
        run: what identifies the run: digests of facts, base and start, dtype, device, and the plan.
        step: steps taken.
        position: facts drawn.
        best: figures of the best validation so far; empty before the first.
        stale: validations since the best.
        tensors: parameters, the best parameters and the optimiser's moments, by prefixed name.
    """

    run: Mapping[str, Any]
    step: int
    position: int
    best: Mapping[str, Any]
    stale: int
    tensors: Mapping[str, Tensor]

    def to_bytes(self) -> bytes:
        """Safetensors bytes; equal states give equal bytes."""
        card = {
            "run": dict(self.run),
            "step": self.step,
            "position": self.position,
            "best": dict(self.best),
            "stale": self.stale,
        }
        return pack("training", card, self.tensors)

    @classmethod
    def from_bytes(cls, data: bytes) -> TrainingState:
        """Read what `to_bytes` wrote.

        Raises:
            DeltaCorrupt: the bytes are something else.
        """
        card, tensors = unpack("training", data)
        return cls(card["run"], card["step"], card["position"], card["best"], card["stale"], tensors)


class RunFolder:
    """The folder of one training run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.start_file = self.path / "start.safetensors"
        self.state_file = self.path / "state.safetensors"
        self.metrics_file = self.path / "metrics.jsonl"
        self.kept = self.path / "kept"

    def clear(self) -> None:
        """Forget what a run has computed that was stopped before it began.

        Raises:
            CheckpointMismatch: there is a run in the folder.
        """
        if self.start_file.exists():
            raise CheckpointMismatch(
                f"{self.path} holds a run already.", "Resume it, or name another folder.", "/checkpoint"
            )
        shutil.rmtree(self.kept, ignore_errors=True)

    def begin(self, start: Editor) -> None:
        """Make the folder and write where the run begins."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.start_file, start.to_bytes())

    def begun(self) -> Editor:
        """Where the run began.

        Raises:
            CheckpointMismatch: there is no run in the folder, or it is damaged.
        """
        with self._readable():
            return Editor.from_bytes(self.start_file.read_bytes())

    def read(self) -> tuple[Editor, TrainingState | None]:
        """Where the run began, and where it stands (None before its first checkpoint).

        Raises:
            CheckpointMismatch: there is no run in the folder, or it is damaged.
        """
        start, state = self.begun(), None
        with self._readable():
            if self.state_file.exists():
                state = TrainingState.from_bytes(self.state_file.read_bytes())
        self._forget_metrics_after(-1 if state is None else state.step)
        return start, state

    def save(self, state: TrainingState) -> None:
        """Replace the checkpoint; durable when this returns."""
        write_atomically(self.state_file, state.to_bytes())

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to the metrics."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All metrics so far; a last line that was cut short is left out."""
        if not self.metrics_file.exists():
            return []
        text = self.metrics_file.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, DeltaCorrupt) as error:
            raise CheckpointMismatch(
                f"No training run could be read from {self.path}: {error}",
                "Begin a new one in another folder.",
                "/checkpoint",
            ) from error

    def _forget_metrics_after(self, step: int) -> None:
        """Steps after the checkpoint are about to be taken again."""
        kept = [line for line in self.metrics() if line["step"] <= step]
        write_atomically(self.metrics_file, "".join(json.dumps(line) + "\n" for line in kept).encode())


@contextmanager
def storage(folder: RunFolder | None) -> Iterator[Path]:
    """Where what is computed once is kept while a run goes on; a run that was stopped finds it again."""
    if folder is None:
        with TemporaryDirectory() as place:
            yield Path(place)
    else:
        yield folder.kept
        shutil.rmtree(folder.kept)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content as a whole, or not at all."""
    scratch = path.with_name(path.name + ".part")
    with scratch.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

"""From a registered model to a resident one: loaded, and at first calibrated and measured."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from ledger import Ledger
from ledger.models import models
from ledger.models import ready as ledger_ready
from ledger.records import ModelRecord
from malmen_core.editing.calibrate import calibrate
from malmen_core.editing.editor import Editor
from malmen_core.errors import CoreError, EditorMismatch, ModelNotLoadable
from malmen_core.evaluation.verify import CanaryRecord, record_canaries
from malmen_core.models.base import BaseModel, inspect_source
from malmen_core.models.checkpoint import checkpoint_folder, commit_of, files_digest, weight_files
from malmen_core.models.delta import Delta
from worker.errors import CheckpointChanged, WeightsDiffer
from worker.resident import Resident
from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

LOOK_S = 5.0

Progress = Callable[[str, int, int], None]


def load_base(model: ModelRecord, settings: WorkerSettings) -> BaseModel:
    """Load the checkpoint that was registered.

    Raises:
        CoreError: it cannot be loaded.
        CheckpointChanged: the files are not those that were registered.
    """
    folder = checkpoint_folder(model.source, model.revision)
    before = files_state(folder)
    try:
        base = BaseModel.load(
            model.source,
            revision=model.revision,
            modules=list(model.modules),
            device=settings.device,
            dtype=settings.dtype,
            memory_budget=settings.memory_budget,
        )
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        raise ModelNotLoadable(
            f"Model '{model.id}' could not be loaded from {model.source}: {error}",
            "Check the files, the memory and ERRATA_DEVICE, then register it again.",
        ) from error
    own_weights(base)
    if base.info.digest != model.digest or files_state(folder) != before:
        raise CheckpointChanged(model.id, model.digest, base.info.digest)
    check_usable(base)
    return base


def files_state(folder: Path) -> list[tuple[str, int, int, int]]:
    """What changes when somebody writes to the weight files of a checkpoint."""
    states = [(file.name, file.stat()) for file in weight_files(folder)]
    return [(name, state.st_ino, state.st_size, state.st_mtime_ns) for name, state in states]


class CheckpointWatch(threading.Thread):
    """Notices that the files of a loaded checkpoint have changed; what was loaded is not touched by that.

    Attributes:
        changed: whether a worker that starts now would find another checkpoint.
    """

    def __init__(self, model: ModelRecord, stopping: threading.Event) -> None:
        super().__init__(name="checkpoint-watch", daemon=True)
        self._model, self._stopping = model, stopping
        self._loaded = files_state(checkpoint_folder(model.source, model.revision))
        self.changed = False

    def run(self) -> None:
        """Look at the files now and then, and read them when they differ."""
        before = self._loaded
        while not self._stopping.wait(LOOK_S):
            try:
                folder = checkpoint_folder(self._model.source, self._model.revision)
                now = files_state(folder)
                if now != before:
                    before, self.changed = now, files_digest(folder) != self._model.digest
                    if self.changed:
                        logger.error("The checkpoint of '%s' in %s has changed.", self._model.id, folder)
            except (OSError, CoreError) as error:
                logger.warning("The checkpoint of '%s' cannot be looked at: %s", self._model.id, error)


def own_weights(base: BaseModel) -> None:
    """Copy weights that are mapped from files, so that what is served is not changed by writing there."""
    for tensor in (*base.model.parameters(), *base.model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def check_usable(base: BaseModel) -> None:
    """Check what loads without complaint and fails at some later prompt.

    Raises:
        ModelNotLoadable: a weight is not finite, or the tokenizer has tokens that the embedding lacks.
    """
    for name, weight in base.model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise ModelNotLoadable(
                f"The weight {name} of the checkpoint holds infinities or NaN.",
                "Restore the checkpoint, and register it again.",
                "/source",
            )
    rows = base.model.get_input_embeddings().weight.shape[0]
    added = max(base.tokenizer("")["input_ids"], default=0) + 1
    if max(base.tokenizer.vocab_size, added) > rows:
        raise ModelNotLoadable(
            f"The tokenizer has {max(base.tokenizer.vocab_size, added)} tokens, the embedding {rows} rows.",
            "Use the model's own tokenizer, or resize the embedding, and register it again.",
            "/source",
        )


def prepare(ledger: Ledger, model: ModelRecord, settings: WorkerSettings, progress: Progress) -> Resident:
    """Load a registered model, take or calibrate its editor, record its canaries, and say that it is ready.

    Two workers that do this at once do no harm: the second `complete_model` changes nothing, and what the
    ledger then has is what both use.

    Raises:
        CoreError: the model cannot be loaded, or its editor does not fit.
        CheckpointChanged: the files are not those that were registered.
    """
    if not model.digest:
        model = fetch(ledger, model, progress)
    progress("loading", 0, 1)
    base = load_base(model, settings)
    if model.given_editor_digest is not None:
        editor = Editor.from_bytes(ledger.blobs.get(model.given_editor_digest))
        editor.check_fits(base.info)
    else:
        editor = calibrate(base, progress)
    canaries = record_canaries(base)
    ready = ledger.run(
        ledger_ready.mark_ready,
        model.id,
        editor.to_bytes(),
        editor.card,
        canaries.to_json(),
        base.parameters_digest(),
        actor="worker",
        weights_digest=base.version(Delta.empty()).weights_digest,
    )
    return resident(ledger, ready, base, settings)


def fetch(ledger: Ledger, model: ModelRecord, progress: Progress) -> ModelRecord:
    """Fetch a checkpoint of the hub, and say what it is: the commit that it is pinned to, and its digest.

    Raises:
        CoreError: it cannot be had, or cannot be edited.
    """
    progress("downloading", 0, 0)
    folder = checkpoint_folder(
        model.source, model.revision, lambda done, total: progress("downloading", done, total)
    )
    progress("inspecting", 0, 1)
    modules = list(model.modules) or None
    if modules is None and model.given_editor_digest is not None:
        modules = list(Editor.from_bytes(ledger.blobs.get(model.given_editor_digest)).modules)
    info = inspect_source(str(folder), None, modules)
    found = {
        "architecture": info.architecture,
        "context_length": info.context_length,
        "modules": list(info.modules),
        "digest": info.digest,
    }
    return ledger.run(models.inspected, model.id, commit_of(folder), found)


def load(ledger: Ledger, model: ModelRecord, settings: WorkerSettings) -> Resident:
    """Load a model that is ready; with an editor of another release it is served, and not edited.

    Raises:
        CoreError: it cannot be loaded.
        CheckpointChanged: the files are not those that were registered.
        LedgerError: its editor cannot be read.
        WeightsDiffer: the loaded weights are not those that were measured at registration.
    """
    base = load_base(model, settings)
    if model.base_parameters_digest is not None:
        found = base.parameters_digest()
        if found != model.base_parameters_digest:
            raise WeightsDiffer(f"model '{model.id}'", model.base_parameters_digest, found)
    return resident(ledger, model, base, settings)


def resident(ledger: Ledger, model: ModelRecord, base: BaseModel, settings: WorkerSettings) -> Resident:
    """Join a loaded base with the editor and canaries that the ledger has for it.

    Raises:
        EditorMismatch: the ledger has none.
    """
    if model.editor_digest is None or model.canaries is None:
        raise EditorMismatch(f"Model '{model.id}' has no editor.", "Register it again.")
    canaries = CanaryRecord.from_json(dict(model.canaries))
    editor = _usable(ledger.blobs.get(model.editor_digest), model, base)
    return Resident(model.id, base, editor, canaries, ledger.blobs, settings.version_cache)


def _usable(content: bytes, model: ModelRecord, base: BaseModel) -> Editor | CoreError:
    """The editor that was stored, or why this release cannot edit with it."""
    try:
        editor = Editor.from_bytes(content)
        editor.check_fits(base.info)
        return editor
    except CoreError as error:
        logger.error("Model '%s' is served, but cannot be edited: %s", model.id, error)
        return error

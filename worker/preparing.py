"""From a registered model to a resident one: loaded, and at first calibrated and measured."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ledger import Ledger
from ledger.records import ModelRecord
from malmen_core.base import BaseModel
from malmen_core.calibrate import calibrate
from malmen_core.delta import Delta
from malmen_core.editor import Editor
from malmen_core.errors import EditorMismatch, ModelNotLoadable
from malmen_core.verify import CanaryRecord, record_canaries
from worker.errors import CheckpointChanged
from worker.resident import Resident
from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


def load_base(model: ModelRecord, settings: WorkerSettings) -> BaseModel:
    """Load the checkpoint that was registered.

    Raises:
        CoreError: it cannot be loaded.
        CheckpointChanged: the files are not those that were registered.
    """
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
    if base.info.digest != model.digest:
        raise CheckpointChanged(model.id, model.digest, base.info.digest)
    return base


def prepare(ledger: Ledger, model: ModelRecord, settings: WorkerSettings, progress: Progress) -> Resident:
    """Load a registered model, take or calibrate its editor, record its canaries, and say that it is ready.

    Two workers that do this at once do no harm: the second `complete_model` changes nothing, and what the
    ledger then has is what both use.

    Raises:
        CoreError: the model cannot be loaded, or its editor does not fit.
        CheckpointChanged: the files are not those that were registered.
    """
    base = load_base(model, settings)
    if model.given_editor_digest is not None:
        editor = Editor.from_bytes(ledger.blobs.get(model.given_editor_digest))
        editor.check_fits(base.info)
    else:
        editor = calibrate(base, progress)
    canaries = record_canaries(base)
    ready = ledger.complete_model(
        model.id,
        editor.to_bytes(),
        editor.card,
        canaries.to_json(),
        base.parameters_digest(),
        actor="worker",
        weights_digest=base.version(Delta.empty()).weights_digest,
    )
    return resident(ledger, ready, base, settings)


def load(ledger: Ledger, model: ModelRecord, settings: WorkerSettings) -> Resident:
    """Load a model that is ready.

    Raises:
        CoreError: it cannot be loaded, or its editor does not fit.
        CheckpointChanged: the files are not those that were registered.
        LedgerError: its editor cannot be read.
    """
    return resident(ledger, model, load_base(model, settings), settings)


def resident(ledger: Ledger, model: ModelRecord, base: BaseModel, settings: WorkerSettings) -> Resident:
    """Join a loaded base with the editor and canaries that the ledger has for it.

    Raises:
        EditorMismatch: the ledger has none, or one for another model.
    """
    if model.editor_digest is None or model.canaries is None:
        raise EditorMismatch(f"Model '{model.id}' has no editor.", "Register it again.")
    editor = Editor.from_bytes(ledger.blobs.get(model.editor_digest))
    editor.check_fits(base.info)
    canaries = CanaryRecord.from_json(dict(model.canaries))
    return Resident(model.id, base, editor, canaries, ledger.blobs, settings.version_cache)

"""A version as workers serve it, in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ledger import Ledger
from ledger.records import ModelRecord, VersionRecord
from malmen_core.export.fidelity import dtype_name
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import Version
from worker.preparing import load_base
from worker.settings import WorkerSettings

DTYPES: tuple[Literal["float32", "bfloat16", "float16"], ...] = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Served:
    """A version as workers serve it; `exact` says whether its weights hash to what the ledger has."""

    base: BaseModel
    delta: Delta
    version: Version
    exact: bool


def load_served(ledger: Ledger, model: ModelRecord, record: VersionRecord) -> Served:
    """Load a version in the dtype in which its weights were recorded, as far as that can be told.

    The dtype of the settings is tried first. Where none gives the recorded weights to the last bit (another
    machine may sum in another order), it is the one that is used.
    """
    delta = (
        Delta.empty()
        if record.delta_digest is None
        else Delta.from_bytes(ledger.blobs.get(record.delta_digest))
    )
    settings = WorkerSettings()
    first: Served | None = None
    for dtype in (settings.dtype, *DTYPES):
        if first is not None and dtype == dtype_name(first.base):
            continue
        base = load_base(model, settings.model_copy(update={"dtype": dtype}))
        version = base.version(delta)
        exact = version.weights_digest == record.weights_digest
        if exact:
            return Served(base, delta, version, exact)
        first = first or Served(base, delta, version, exact)
    assert first is not None, "the settings' own dtype was tried"
    return first

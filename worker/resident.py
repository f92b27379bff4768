"""What stays in memory while a worker lives: the base model, its editor and the latest versions."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Protocol

from malmen_core.editing.editor import Editor
from malmen_core.errors import CoreError
from malmen_core.evaluation.verify import CanaryRecord
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import Version
from worker.errors import WeightsDiffer

BASE = "base"


class BlobReader(Protocol):
    """The part of the blob store that is needed to read deltas."""

    def get(self, digest: str) -> bytes:
        """Return a blob's bytes, with their digest checked."""


class Resident:
    """One loaded base model with its editor, canaries and a bounded cache of versions; thread-safe.

    Attributes:
        model_id: the registered model.
        base: the loaded base model; never written to.
        canaries: what the base answered at registration.
    """

    def __init__(
        self,
        model_id: str,
        base: BaseModel,
        editor: Editor | CoreError,
        canaries: CanaryRecord,
        blobs: BlobReader,
        cache_size: int,
    ) -> None:
        self.model_id = model_id
        self.base = base
        self._editor = editor
        self.canaries = canaries
        self._blobs = blobs
        self._cache_size = cache_size
        self._versions: OrderedDict[str, Version] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}

    @property
    def editor(self) -> Editor:
        """The model's editor.

        Raises:
            CoreError: this release cannot use it; the versions that there are do not need it.
        """
        if isinstance(self._editor, CoreError):
            raise self._editor
        return self._editor

    @property
    def editor_problem(self) -> str | None:
        """Why the editor cannot be used, if so."""
        return str(self._editor) if isinstance(self._editor, CoreError) else None

    def version(self, delta_digest: str | None, weights_digest: str | None = None) -> Version:
        """Return base + delta, made once and kept while it is among the latest used.

        Args:
            delta_digest: the delta's digest; None for the empty delta.
            weights_digest: of the weights that were verified; None where nobody has recorded it.

        Raises:
            BlobMissing: the delta is not in the store.
            BlobCorrupt: its bytes are not those that were stored.
            DeltaCorrupt: its bytes are no delta.
            WeightsDiffer: the weights are not those that were verified.
        """
        key = delta_digest or BASE
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            found = self._recall(key)
            if found is not None:
                return _checked(found, weights_digest)
            try:
                delta = Delta.from_bytes(self._blobs.get(delta_digest)) if delta_digest else Delta.empty()
                made = _checked(self.base.version(delta), weights_digest)
                self.keep(delta_digest, made)
                return made
            finally:
                with self._lock:
                    self._making.pop(key, None)

    def keep(self, delta_digest: str | None, version: Version) -> None:
        """Put a version that was just made among the latest used."""
        with self._lock:
            self._versions[delta_digest or BASE] = version
            self._versions.move_to_end(delta_digest or BASE)
            while len(self._versions) > self._cache_size + (BASE in self._versions):
                self._versions.pop(next(key for key in self._versions if key != BASE))

    def cached(self) -> tuple[str, ...]:
        """Return the digests of the versions in memory, oldest first."""
        with self._lock:
            return tuple(self._versions)

    def has(self, delta_digest: str | None) -> bool:
        """Return whether a version is in memory."""
        return (delta_digest or BASE) in self._versions

    def _recall(self, key: str) -> Version | None:
        with self._lock:
            if key in self._versions:
                self._versions.move_to_end(key)
            return self._versions.get(key)


def _checked(version: Version, weights_digest: str | None) -> Version:
    if weights_digest is not None and version.weights_digest != weights_digest:
        raise WeightsDiffer(
            f"the version with delta {version.delta_digest}", weights_digest, version.weights_digest
        )
    return version

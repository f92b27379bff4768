"""The exclusive lock of a data directory, and the note that its holder leaves for others."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from errata.errors import AlreadyRunning

LOCK, NOTE = "up.lock", "up.json"


@dataclass(frozen=True)
class StackNote:
    """What the holder of a data directory tells other processes.

    Attributes:
        pid: Its process id.
        url: Address of the service.
        key_file: File that holds the admin key.
    """

    pid: int
    url: str
    key_file: str


class DataDirLock:
    """Holds a data directory for as long as the process lives, or until released."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lock = FileLock(data_dir / LOCK, timeout=0, thread_local=False)

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock.is_locked

    def acquire(self, note: StackNote | None) -> None:
        """Take the lock and leave the note; None leaves none, for a holder that serves nobody.

        Raises:
            AlreadyRunning: Another process holds it; the message names its address.
        """
        try:
            self._lock.acquire()
        except Timeout:
            known = read_note(self._data_dir)
            where = f" at {known.url} (process {known.pid})" if known else ""
            raise AlreadyRunning(
                f"A stack already runs on the data directory {self._data_dir}{where}.",
                "Use it, stop it first, or give another --data-dir.",
            ) from None
        (self._data_dir / NOTE).unlink(missing_ok=True)
        if note is not None:
            self.write(note)

    def write(self, note: StackNote) -> None:
        """Replace the note; the lock must be held."""
        draft = self._data_dir / f".{NOTE}"
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(asdict(note)))
        draft.replace(self._data_dir / NOTE)

    def release(self) -> None:
        """Give the lock back and take the note away; harmless when it is not held."""
        if self.held:
            (self._data_dir / NOTE).unlink(missing_ok=True)
            self._lock.release()


def read_note(data_dir: Path) -> StackNote | None:
    """The note of the stack that runs on a data directory, or None when none runs."""
    try:
        raw = json.loads((data_dir / NOTE).read_text())
        note = StackNote(pid=int(raw["pid"]), url=str(raw["url"]), key_file=str(raw["key_file"]))
        os.kill(note.pid, 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return note

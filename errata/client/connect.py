"""Which service a client command talks to, and with which key."""

from __future__ import annotations

from pathlib import Path

from errata.client import Client
from errata.errors import NoStack
from errata.settings import StackSettings
from errata.stack.lock import read_note


def connect(url: str | None, key: str | None) -> Client:
    """A client for the service that was named, or for the stack that runs on the data directory.

    Args:
        url: From the command line; else ERRATA_URL; else the running local stack.
        key: From the command line; else ERRATA_KEY; else the local stack's admin key, if it is that stack.

    Raises:
        NoStack: No address, or no key for it, is known.
    """
    settings = StackSettings()
    note = read_note(settings.data_dir)
    address = url or settings.url or (note.url if note else None)
    if address is None:
        raise NoStack(
            f"No stack runs on the data directory {settings.data_dir}.",
            "Start one with `errata up`, or name a service with --url and --key (ERRATA_URL, ERRATA_KEY).",
        )
    secret = key or (settings.key.get_secret_value() if settings.key else None)
    if secret is None and note is not None and address.rstrip("/") == note.url:
        secret = _read_key(Path(note.key_file))
    if secret is None:
        raise NoStack(f"There is no key for {address}.", "Give one with --key or ERRATA_KEY.")
    return Client(address, secret)


def _read_key(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None

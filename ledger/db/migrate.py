"""Bring a database to the newest schema."""

from __future__ import annotations

from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, make_url, text

from ledger.db import roles
from ledger.db.engine import unavailable_is_typed
from ledger.settings import LedgerSettings, normalise_database_url

LOCK = 0x45525241  # one migration at a time, whoever starts it


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("migrations")))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Apply all revisions that the database lacks, in one transaction; safe to run twice or at once.

    Raises:
        LedgerUnavailable: the database does not answer.
    """
    engine = create_engine(normalise_database_url(url), connect_args={"connect_timeout": 10})
    try:
        with unavailable_is_typed(), engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    finally:
        engine.dispose()


def prepare(settings: LedgerSettings) -> None:
    """Bring the database of the settings to the newest schema, and admit the services' role if it is another.

    Raises:
        LedgerUnavailable: the database does not answer.
        RoleTooStrong: the services' role could do all that the owner can.
    """
    owner, service = settings.owner_url, settings.database_url.get_secret_value()
    upgrade(owner)
    if make_url(owner).username != make_url(service).username:
        roles.admit(owner, service)


def head_revision() -> str:
    """Return the newest revision that this code knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None, "the migrations package is part of the installation"
    return head


def is_older(revision: str | None) -> bool:
    """Return whether a schema lacks revisions that this code knows; one that it does not know is newer."""
    known = [each.revision for each in ScriptDirectory.from_config(_config()).walk_revisions()]
    return revision is None or revision in known[1:]


def current_revision(connection: Connection) -> str | None:
    """Return the revision of the connected database, or None if it was never migrated."""
    return MigrationContext.configure(connection).get_current_revision()

"""The ledger itself, for commands that do without the service: that of the settings, or the local stack's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from errata.client.names import only_model
from errata.errors import NoStack, StackError
from errata.settings import StackSettings
from errata.stack.lock import DataDirLock, read_note
from errata.stack.servers import SERVICE, Postgres
from ledger.models import models
from problems.settings import secret

if TYPE_CHECKING:
    from ledger import Ledger
    from ledger.records import ModelRecord

Urls = tuple[str, str | None]
"""Addresses of a database: as the services' role, and as the owner if that is another."""


@contextmanager
def ledger_errors() -> Iterator[None]:
    """Turn an error of the ledger into one of the commands'."""
    from ledger.errors import LedgerError

    try:
        yield
    except LedgerError as error:
        raised = StackError(error.message, error.remedy)
        raised.code = error.code
        raise raised from error


@contextmanager
def own_ledger(say: Callable[[str], None]) -> Iterator[Ledger]:
    """Open the ledger of ERRATA_DATABASE_URL, else that of the data directory.

    A data directory's database is started for as long as this lasts, unless its stack runs.

    Args:
        say: Told what is being started.

    Raises:
        StackError: There is no ledger, it does not answer, or it has not the schema of this release.
    """
    from ledger import Ledger, LedgerSettings
    from ledger.db.migrate import prepare

    settings = StackSettings()
    given = secret(os.environ, "ERRATA_DATABASE_URL")
    blobs = os.environ.get("ERRATA_BLOB_URL") or ("" if given else str(settings.data_dir / "blobs"))
    if given and not blobs:
        raise NoStack("ERRATA_DATABASE_URL is set, but not ERRATA_BLOB_URL.", "Set both, or neither.")
    with _given(given) if given else _embedded(settings, say) as (url, owner), ledger_errors():
        found = LedgerSettings(database_url=url, migration_database_url=owner, blob_url=blobs)
        if not given:
            prepare(found)
        ledger = Ledger.open(found)
        try:
            yield ledger
        finally:
            ledger.close()


@contextmanager
def _given(url: str) -> Iterator[Urls]:
    yield url, secret(os.environ, "ERRATA_MIGRATION_DATABASE_URL")


def _urls(postgres: Postgres) -> Urls:
    return postgres.url(role=SERVICE), postgres.url()


@contextmanager
def _embedded(settings: StackSettings, say: Callable[[str], None]) -> Iterator[Urls]:
    """The addresses of the data directory's database, which runs meanwhile."""
    folder = settings.data_dir.resolve()
    if read_note(folder) is not None:
        postgres = Postgres(folder / "postgres")
        if not postgres.running():
            raise NoStack(
                f"The stack on {folder} has its database elsewhere.",
                "Set ERRATA_DATABASE_URL and ERRATA_BLOB_URL as for the stack.",
            )
        yield _urls(postgres)
        return
    if not (folder / "postgres" / "PG_VERSION").exists():
        raise NoStack(
            f"There is no ledger in the data directory {folder}.",
            "Set ERRATA_DATA_DIR, or ERRATA_DATABASE_URL and ERRATA_BLOB_URL.",
        )
    lock = DataDirLock(folder)
    lock.acquire(None)
    postgres = Postgres(folder / "postgres")
    try:
        say("Starting PostgreSQL")
        postgres.start()
        yield _urls(postgres)
    finally:
        postgres.stop()
        lock.release()


def chosen_model(ledger: Ledger, model_id: str | None) -> ModelRecord:
    """The named model, or the only one that is registered.

    Raises:
        StackError: There is no such model; or none was named, and there is not exactly one.
    """
    if model_id is None:
        model_id = only_model([model.id for model in ledger.run(models.list_all, limit=500).items])
    return ledger.run(models.get, model_id)

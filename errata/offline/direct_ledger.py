"""The ledger itself, for commands that do without the service: that of the settings, or the local stack's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from errata.client.names import only_model
from errata.errors import ChildFailed, NoStack, StackError
from errata.settings import StackSettings
from errata.stack.children import tail
from errata.stack.layout import lay_out
from errata.stack.lock import DataDirLock, read_note
from errata.stack.postgres import SERVICE, Postgres
from errata.stack.supervisor import Supervisor
from ledger.models import models

if TYPE_CHECKING:
    from ledger import Ledger
    from ledger.records import ModelRecord

Urls = tuple[str, str | None]
"""Addresses of a database: as the services' role, and as the owner if that is another."""
POLL_S = 0.05
SOCKET_LINE = 4
"""The line of `postmaster.pid`, from 0, that names the folder of the server's socket."""


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
def own_ledger(say: Callable[[str], None], *, make: bool = False) -> Iterator[Ledger]:
    """Open the ledger of ERRATA_DATABASE_URL, else that of the data directory.

    A data directory's database is started for as long as this lasts, unless its stack runs.

    Args:
        say: Told what is being started.
        make: Make and migrate the ledger if it is not there, and open it as its owner.

    Raises:
        StackError: There is no ledger, it does not answer, or it has not the schema of this release.
    """
    from ledger import Ledger, LedgerSettings
    from ledger.db.migrate import prepare

    settings = StackSettings()
    given = os.environ.get("ERRATA_DATABASE_URL")
    blobs = os.environ.get("ERRATA_BLOB_URL") or ("" if given else str(settings.data_dir / "blobs"))
    if given and not blobs:
        raise NoStack("ERRATA_DATABASE_URL is set, but not ERRATA_BLOB_URL.", "Set both, or neither.")
    with _given(given) if given else _embedded(settings, say, make) as (url, owner), ledger_errors():
        found = LedgerSettings(database_url=url, migration_database_url=owner, blob_url=blobs)
        if make or not given:
            prepare(found)
        ledger = Ledger.open(found.model_copy(update={"database_url": found.owner_url}) if make else found)
        try:
            yield ledger
        finally:
            ledger.close()


@contextmanager
def _given(url: str) -> Iterator[Urls]:
    yield url, os.environ.get("ERRATA_MIGRATION_DATABASE_URL")


def _urls(postgres: Postgres) -> Urls:
    return postgres.url(role=SERVICE), postgres.url()


@contextmanager
def _embedded(settings: StackSettings, say: Callable[[str], None], make: bool) -> Iterator[Urls]:
    """The addresses of the data directory's database, which runs meanwhile."""
    folder = settings.data_dir.resolve()
    if read_note(folder) is not None:
        yield _running(folder)
        return
    if not make and not (folder / "postgres" / "PG_VERSION").exists():
        raise NoStack(
            f"There is no ledger in the data directory {folder}.",
            "Set ERRATA_DATA_DIR, or ERRATA_DATABASE_URL and ERRATA_BLOB_URL.",
        )
    layout = lay_out(folder)
    lock = DataDirLock(folder)
    lock.acquire(None)
    supervisor = Supervisor(say, settings.stack_stop_timeout_s)
    try:
        say("Starting PostgreSQL")
        postgres = Postgres(layout.postgres, layout.run_dir, layout.log("postgres"))
        postgres.prepare()
        supervisor.start(postgres.spec())
        _wait(postgres, settings.stack_start_timeout_s)
        postgres.create_database()
        yield _urls(postgres)
    finally:
        supervisor.stop()
        layout.remove_run_dir()
        lock.release()


def _running(folder: Path) -> Urls:
    """The addresses of the database of a stack that runs; its own notes say where its socket is."""
    try:
        lines = (folder / "postgres" / "postmaster.pid").read_text().splitlines()
        socket_dir = Path(lines[SOCKET_LINE])
    except (OSError, IndexError):
        raise NoStack(
            f"The stack on {folder} has its database elsewhere.",
            "Set ERRATA_DATABASE_URL and ERRATA_BLOB_URL as for the stack.",
        ) from None
    return _urls(Postgres(folder / "postgres", socket_dir.parent, folder / "logs" / "postgres.log"))


def _wait(postgres: Postgres, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not postgres.accepts():
        if time.monotonic() > deadline:
            raise ChildFailed(
                f"PostgreSQL was not ready after {timeout_s:g} s.",
                f"The end of {postgres.log} follows.",
                tail(postgres.log),
            )
        time.sleep(POLL_S)


def chosen_model(ledger: Ledger, model_id: str | None) -> ModelRecord:
    """The named model, or the only one that is registered.

    Raises:
        StackError: There is no such model; or none was named, and there is not exactly one.
    """
    if model_id is None:
        model_id = only_model([model.id for model in ledger.run(models.list_all, limit=500).items])
    return ledger.run(models.get, model_id)

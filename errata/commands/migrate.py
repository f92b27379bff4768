"""``errata migrate``: bring the ledger's schema up to date."""

from __future__ import annotations

import typer

from errata.console import emit, out, reporting
from errata.errors import StackError
from errata.options import Json


def register(app: typer.Typer) -> None:
    """Add ``migrate``."""
    app.command()(migrate)


def migrate(as_json: Json = False) -> None:
    """Apply the migrations that the database of ERRATA_DATABASE_URL lacks."""
    from ledger.errors import LedgerError
    from ledger.migrations import head_revision, upgrade
    from ledger.settings import LedgerSettings

    with reporting(as_json):
        settings = LedgerSettings(blob_url="")  # a migration touches no blobs
        try:
            upgrade(settings.database_url)
        except LedgerError as error:
            raise StackError(f"The ledger was not migrated: {error}") from error
    if as_json:
        emit({"revision": head_revision()})
    else:
        out.print(f"The ledger is at revision {head_revision()}.")

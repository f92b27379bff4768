"""``errata migrate``: bring the ledger's schema up to date."""

from __future__ import annotations

import typer

from errata.cli.console import emit, out, reporting
from errata.cli.options import Json
from errata.errors import StackError


def register(app: typer.Typer) -> None:
    """Add ``migrate``."""
    app.command()(migrate)


def migrate(as_json: Json = False) -> None:
    """Apply the migrations that the database lacks.

    With ERRATA_MIGRATION_DATABASE_URL, as the owner whom it names; the role of ERRATA_DATABASE_URL is then
    made if need be, and given what the services need.
    """
    from ledger.db.migrate import head_revision, prepare
    from ledger.errors import LedgerError
    from ledger.settings import LedgerSettings

    with reporting(as_json):
        try:
            prepare(LedgerSettings(blob_url=""))  # a migration touches no blobs
        except LedgerError as error:
            raise StackError(f"The ledger was not migrated: {error}") from error
    if as_json:
        emit({"revision": head_revision()})
    else:
        out.print(f"The ledger is at revision {head_revision()}.")

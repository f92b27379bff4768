"""`Ledger`: every call is one transaction on a real PostgreSQL, and hands out frozen records."""

from __future__ import annotations

from sqlalchemy import Engine

from ledger.accepting import Accepting
from ledger.blobs.store import Blobs, open_blobs
from ledger.db.engine import Database, open_engine
from ledger.settings import LedgerSettings
from ledger.versioning import Versioning
from ledger.working import Working


class Ledger(Accepting, Working, Versioning):
    """The record of what was asked, what was done, and by whom.

    Thread-safe. Any method may raise LedgerUnavailable; doing the same again is then safe.
    """

    def __init__(self, engine: Engine, blobs: Blobs, blob_grace_s: float = 86400.0) -> None:
        self.database = Database(engine)
        self.blobs = blobs
        self.blob_grace_s = blob_grace_s

    @classmethod
    def open(cls, settings: LedgerSettings) -> Ledger:
        """Return a ledger on the database and blob store of the settings; connects on first use."""
        engine, blobs = open_engine(settings.database_url), open_blobs(settings.blob_url)
        return cls(engine, blobs, settings.blob_grace_s)

    @property
    def engine(self) -> Engine:
        """The engine, for readiness checks and metrics."""
        return self.database.engine

    def close(self) -> None:
        """Close the pooled connections."""
        self.database.engine.dispose()

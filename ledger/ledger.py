"""`Ledger`: the database and the blobs. What is done with them stands in the folder of its noun.

A function that takes a transaction does all of its work in it: `edit_sets.accept(tx, …)`. Whoever has several
things to do in one transaction opens it with `Ledger.transaction`; for one thing, there is `Ledger.run`.
"""

from __future__ import annotations

from sqlalchemy import Engine

from ledger.blobs import gc
from ledger.blobs.store import Blobs, open_blobs
from ledger.db.engine import Database, open_engine
from ledger.integrity import verify
from ledger.records import LedgerCheck, Space, Usage
from ledger.settings import LedgerSettings


class Ledger(Database):
    """The record of what was asked, what was done, and by whom. Thread-safe; its records are frozen."""

    def __init__(self, engine: Engine, blobs: Blobs, blob_grace_s: float = 86400.0) -> None:
        super().__init__(engine, blobs)
        self.blob_grace_s = blob_grace_s

    @classmethod
    def open(cls, settings: LedgerSettings, *, pool_size: int = 5) -> Ledger:
        """Return a ledger on the database and blob store of the settings; connects on first use.

        Args:
            settings: where both are.
            pool_size: most connections, as many as threads use it at once.
        """
        engine = open_engine(settings.database_url.get_secret_value(), pool_size=pool_size)
        return cls(engine, open_blobs(settings.blob_url), settings.blob_grace_s)

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()

    def collect(self) -> Space:
        """Remove blobs that nothing names and that are past the grace period; see `gc.collect`."""
        return gc.collect(self, self.blob_grace_s)

    def usage(self) -> Usage:
        """Return what blobs take up; see `gc.usage`."""
        return gc.usage(self, self.blob_grace_s)

    def verify(self) -> LedgerCheck:
        """Walk every chain and read every blob that is named; problems are returned, not raised.

        The rows are read in one transaction that sees one moment; the blobs after it.
        """
        with self.snapshot() as tx:
            findings = verify.walk(tx)
        return verify.read_blobs(self.blobs, findings)

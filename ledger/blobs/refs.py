"""The rows of blobs that something names: added in the transaction of whatever names them."""

from __future__ import annotations

from typing import Literal

from sqlalchemy.dialects.postgresql import insert

from ledger.blobs import gc
from ledger.db.engine import Transaction
from ledger.db.tables import Blob


def record(tx: Transaction, digest: str | None, kind: Literal["editor", "delta", "statistics"]) -> None:
    """Note that a blob is named now; None names nothing.

    Raises:
        BlobMissing: it is not in the store, so nothing may name it.
    """
    if digest is None:
        return
    gc.lock_gc(tx)
    row = {"digest": digest, "kind": kind, "size": tx.blobs.size(digest), "place": tx.blobs.place(digest)}
    tx.execute(insert(Blob).values(row).on_conflict_do_nothing())

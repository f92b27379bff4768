"""The rows of blobs that something names: added in the transaction of whatever names them."""

from __future__ import annotations

from typing import Literal

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.blobs import gc
from ledger.blobs.store import Blobs
from ledger.db.tables import Blob


def record(
    session: Session, store: Blobs, digest: str | None, kind: Literal["editor", "delta", "statistics"]
) -> None:
    """Note that a blob is named now; None names nothing.

    Raises:
        BlobMissing: it is not in the store, so nothing may name it.
    """
    if digest is None:
        return
    gc.lock_gc(session)
    row = {"digest": digest, "kind": kind, "size": store.size(digest), "place": store.place(digest)}
    session.execute(insert(Blob).values(row).on_conflict_do_nothing())

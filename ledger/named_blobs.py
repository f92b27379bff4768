"""The rows of blobs that something names: added in the transaction of whatever names them."""

from __future__ import annotations

from typing import Literal

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger import space
from ledger.blobs import Blobs
from ledger.tables import Blob


def record(
    session: Session, store: Blobs, digest: str | None, kind: Literal["editor", "delta", "statistics"]
) -> None:
    """Note that a blob is named now; None names nothing.

    Raises:
        BlobMissing: it is not in the store, so nothing may name it.
    """
    if digest is None:
        return
    space.hold_collection(session)
    row = {"digest": digest, "kind": kind, "size": store.size(digest), "place": store.place(digest)}
    session.execute(insert(Blob).values(row).on_conflict_do_nothing())

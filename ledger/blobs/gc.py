"""What the blobs take up, and the removal of those that nothing names.

A blob is named by a row of `blobs`, which is written in the transaction of whatever names it and stays for
ever. One without a row was left by a job that did not get to its commit, or belongs to one that will: it is
removed only when it has not been put for a grace period, and never while a transaction that names blobs is
under way.
"""

from __future__ import annotations

import time

from sqlalchemy import Subquery, func, select, text, union_all
from sqlalchemy.orm import Session

from ledger.blobs.store import Blobs
from ledger.db.engine import Database
from ledger.db.tables import Alias, Blob, EditSet, Membership, Model, Version
from ledger.errors import BlobMissing
from ledger.records import ModelUsage, Space, Usage
from ledger.versions import members

LOCK = 0x45525242
BATCH = 20
KINDS = ("editor", "delta", "statistics")


def lock_gc(session: Session) -> None:
    """Keep blobs from being removed until this transaction ends, so that what is there may be named."""
    session.execute(text("SELECT pg_advisory_xact_lock_shared(:lock)"), {"lock": LOCK})


def _named(session: Session, digests: list[str] | None = None) -> set[str]:
    query = select(Blob.digest)
    return set(session.scalars(query if digests is None else query.where(Blob.digest.in_(digests))))


def _unnamed(database: Database) -> list[tuple[str, int]]:
    """Digest and size of each stored blob without a row."""
    stored = list(database.blobs.stored())
    with database.transaction() as session:
        named = _named(session)
    return [(digest, size) for digest, size in stored if digest not in named]


def _last_put(store: Blobs, digest: str) -> float:
    try:
        return store.modified(digest)
    except BlobMissing:
        return float("inf")


def collect(database: Database, grace_s: float) -> Space:
    """Remove blobs that nothing names and that were last put before the grace period; return what is gone.

    Several may do this at once, and beside any other work.

    Raises:
        LedgerUnavailable, BlobStoreUnavailable: a server does not answer, or others are at it for longer than
            is waited for; some may be removed by then.
    """
    store, before = database.blobs, time.time() - grace_s
    old = [(d, size) for d, size in _unnamed(database) if _last_put(store, d) < before]
    gone = [0, 0]
    for start in range(0, len(old), BATCH):
        batch = dict(old[start : start + BATCH])
        with database.transaction() as session:
            session.execute(text("SET LOCAL lock_timeout = '1s'"))  # others queue behind who waits here
            session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            for digest in batch.keys() - _named(session, list(batch)):
                if store.remove(digest, before):
                    gone[0] += 1
                    gone[1] += batch[digest]
    return Space(*gone)


def usage(database: Database, grace_s: float) -> Usage:
    """Return what the named blobs take up, by kind and by model, and what `collect` would remove now.

    Raises:
        LedgerUnavailable, BlobStoreUnavailable: a server does not answer.
    """
    store, before = database.blobs, time.time() - grace_s
    unnamed = _unnamed(database)
    old = [size for digest, size in unnamed if _last_put(store, digest) < before]
    with database.snapshot() as session:
        kinds = dict.fromkeys(KINDS, Space())
        totals = select(Blob.kind, func.count(), func.sum(Blob.size)).group_by(Blob.kind)
        for kind, count, size in session.execute(totals):
            kinds[kind] = Space(count, int(size))
        return Usage(
            kinds=kinds,
            named_bytes=_size(session, _namings()),
            unnamed=Space(len(unnamed), sum(size for _, size in unnamed)),
            collectable=Space(len(old), sum(old)),
            models=tuple(_of_model(session, ident) for ident in session.scalars(select(Model.id))),
        )


def _namings() -> Subquery:
    """Every time that a model, edit set or version names a blob: what would be kept without digests."""
    columns = (
        Model.given_editor_digest,
        Model.editor_digest,
        EditSet.statistics_digest,
        Version.delta_digest,
        Membership.statistics_digest,
    )
    return union_all(*(select(column.label("digest")) for column in columns)).subquery()


def _size(session: Session, digests: Subquery) -> int:
    """Sum of the sizes of some blobs, each as often as it is listed."""
    query = select(func.coalesce(func.sum(Blob.size), 0)).join(digests, digests.c.digest == Blob.digest)
    return int(session.scalar(query) or 0)


def _of_model(session: Session, model_id: str) -> ModelUsage:
    live = session.scalar(select(Alias.number).where(Alias.model_id == model_id, Alias.name == "live"))
    version = None if live is None else session.get_one(Version, (model_id, live))
    held = select(Membership.statistics_digest.label("digest")).where(
        Membership.model_id == model_id, members.covers(Membership, live)
    )
    delta = select(Version.delta_digest.label("digest")).where(
        Version.model_id == model_id, Version.number == live
    )
    return ModelUsage(
        model=model_id,
        live_facts=0 if version is None else version.live_fact_count,
        statistics_bytes=_size(session, held.subquery()),
        delta_bytes=_size(session, delta.subquery()),
    )

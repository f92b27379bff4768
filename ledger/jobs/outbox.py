"""The outbox: what a queue is still to be told. A row is added with the job, and deleted once it was sent.

Redis may be lost at any time, so the queue is only a doorbell: `jobs_to_ring` finds what must ring again.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import psycopg
from sqlalchemy import URL, delete, func, insert, select
from sqlalchemy.orm import Session

from ledger.db.engine import connecting
from ledger.db.tables import Job, Outbox
from ledger.errors import LedgerUnavailable
from ledger.records import Ring

CHANNEL = "errata_outbox"


def add(session: Session, job_id: str) -> None:
    """Have the job's bell rung once this transaction commits."""
    session.execute(insert(Outbox).values(job_id=job_id))


def take(session: Session, limit: int) -> list[Ring]:
    """Delete and return the oldest messages that no other relay holds.

    They stay locked, and come back if the transaction does not commit.
    """
    ids = session.scalars(
        select(Outbox.id).order_by(Outbox.id).limit(limit).with_for_update(skip_locked=True)
    ).all()
    if not ids:
        return []
    found = session.execute(
        select(Job.id, Job.model_id, Job.fence)
        .join(Outbox, Outbox.job_id == Job.id)
        .where(Outbox.id.in_(ids), Job.finished_at.is_(None))
        .order_by(Outbox.id)
    ).all()
    session.execute(delete(Outbox).where(Outbox.id.in_(ids)))
    return [Ring(row.id, row.model_id, row.fence + 1) for row in found]


def jobs_to_ring(session: Session, older_than_s: float, of_each: int = 100) -> list[Ring]:
    """Return unfinished jobs that nobody holds and that have waited so long, the oldest of each model.

    A model that no worker serves may have any number of them, and keeps no other's from being rung.
    """
    limit_time = func.now() - timedelta(seconds=older_than_s)
    waiting_since = func.greatest(Job.waiting_since, Job.lease_expires_at)
    place = func.row_number().over(partition_by=Job.model_id, order_by=Job.waiting_since).label("place")
    waiting = (
        select(Job.id, Job.model_id, Job.fence, place)
        .where(Job.finished_at.is_(None), waiting_since < limit_time)
        .subquery()
    )
    found = session.execute(select(waiting).where(waiting.c.place <= of_each).order_by(waiting.c.place))
    return [Ring(row.id, row.model_id, row.fence + 1) for row in found]


def listen(url: URL, poll_s: float) -> Iterator[bool]:
    """Yield True whenever the outbox has grown, and False whenever `poll_s` seconds passed without.

    The connection closes when the iterator does.

    Raises:
        LedgerUnavailable: the connection could not be made, or was lost.
    """
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with psycopg.connect(plain, autocommit=True, **connecting(plain)) as connection:
            connection.execute(f"LISTEN {CHANNEL}")
            while True:
                notices = connection.notifies(timeout=poll_s, stop_after=1)
                yield bool(list(notices))  # exhausted, since it holds the connection
    except psycopg.OperationalError as error:
        raise LedgerUnavailable(str(error).strip()) from error

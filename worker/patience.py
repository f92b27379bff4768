"""Calling the ledger while its database may be away: try again until it answers or the job is lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from ledger.errors import BlobStoreUnavailable, LedgerUnavailable
from worker.lease import Lease

logger = logging.getLogger(__name__)

T = TypeVar("T")
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 3.0
LEASES = 5  # longer than a stopped process can keep its locks in the ledger


def insist(lease: Lease, call: Callable[[], T]) -> T:
    """Return what the call returns, trying again for a few leases' time while the ledger's servers are away.

    A commit whose reply was lost may have happened. Trying it again is safe: the ledger refuses a second one.

    Raises:
        LedgerUnavailable, BlobStoreUnavailable: they stayed away.
        LeaseLost: the lease ended before the ledger answered.
        JobCancelled: the job was cancelled.
        WorkerStopping: the worker was asked to stop.
    """
    wait_s, until = FIRST_WAIT_S, time.monotonic() + LEASES * lease.lease_s
    while True:
        try:
            return call()
        except (LedgerUnavailable, BlobStoreUnavailable) as error:
            if time.monotonic() > until:
                raise
            logger.warning("Job %s waits %.1f s: %s", lease.claim.job_id, wait_s, error)
        time.sleep(wait_s)
        lease.check()
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)

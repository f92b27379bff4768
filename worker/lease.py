"""Holding on to a claimed job: renewal, progress, and knowing when to let go.

One thread renews the lease and writes the latest progress, so that the computing thread never waits for the
database. The computing thread learns at its next progress call that the job is no longer its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from ledger import Ledger
from ledger.errors import JobCancelled, LeaseLost, LedgerUnavailable
from ledger.jobs import jobs
from ledger.records import Claim
from worker.errors import WorkerStopping

logger = logging.getLogger(__name__)

PROGRESS_S = 0.3
RENEWALS_PER_LEASE = 3


class Lease:
    """A claimed job's lease while the block lasts; `progress` is what computations report to.

    Attributes:
        claim: the claim that is kept.
        lease_s: for how long it is kept at a time.
        waiting: whether the job waits for another that solves, which is no work of its own.
    """

    def __init__(self, ledger: Ledger, claim: Claim, lease_s: float, stopping: threading.Event) -> None:
        self.claim = claim
        self._ledger = ledger
        self.lease_s = lease_s
        self.waiting = False
        self._stopping = stopping
        self._closed = threading.Event()
        self._ended: LeaseLost | JobCancelled | None = None
        self._outage: LedgerUnavailable | None = None
        self._valid_until = time.monotonic() + lease_s
        self._latest: tuple[str, int, int] | None = None
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join(1.0)

    @property
    def valid_until(self) -> float:
        """Monotonic time at which the lease ends unless it is renewed."""
        return self._valid_until

    def check(self) -> None:
        """Raise if the job must be left.

        Raises:
            LeaseLost: another worker may hold it.
            LedgerUnavailable: so it is, for the lease could not be renewed in time.
            JobCancelled: nobody wants it any more.
            WorkerStopping: this worker was asked to stop.
        """
        if self._ended is not None:
            raise self._ended
        if time.monotonic() > self._valid_until:
            raise self._outage or LeaseLost(self.claim.job_id, self.claim.fence)
        if self._stopping.is_set():
            raise WorkerStopping

    def progress(self, stage: str, done: int, total: int) -> None:
        """Note how far the job is, then `check`. Written a few times a second at most."""
        self._latest = (stage, done, total)
        self.check()

    def stage(self, stage: str) -> Callable[[str, int, int], None]:
        """Return a progress function that reports under one stage, whatever name it is given."""
        return lambda _name, done, total: self.progress(stage, done, total)

    def _keep(self) -> None:
        every = self.lease_s / RENEWALS_PER_LEASE
        renew_at, written = time.monotonic() + every, self._latest
        while not self._closed.wait(min(PROGRESS_S, every / 2)):
            try:
                if time.monotonic() >= renew_at:
                    asked = time.monotonic()
                    self._ledger.run(jobs.renew, self.claim, self.lease_s)
                    self._valid_until = asked + self.lease_s
                    renew_at = asked + every
                    self._outage = None
                if self._latest is not None and self._latest != written:
                    latest = self._latest
                    self._ledger.run(jobs.progress, self.claim, *latest)
                    written = latest
            except (LeaseLost, JobCancelled) as error:
                self._ended = error
                logger.debug("Job %s: %s", self.claim.job_id, error)  # `check` tells the computing thread
                return
            except LedgerUnavailable as error:
                self._outage = error
                logger.warning("Job %s: the lease could not be renewed: %s", self.claim.job_id, error)

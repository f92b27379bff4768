"""The real time limit: ends the process when a job outlasts its time, its lease, or a request to stop.

Nothing can interrupt a computation that hangs in a kernel, and an exception thrown into it from outside could
land in the middle of a swap. Ending the process is safe at any moment: the lease runs out, and another worker
starts afresh.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType

from worker.lease import Lease

logger = logging.getLogger(__name__)

TICK_S = 0.25
EXIT_TIMEOUT = 70
RELEASE_S = 2.0


class Watchdog:
    """Watches one job while the block lasts.

    Time is counted in ticks while the process runs, so that a process which was stopped and continued still
    gets to learn from the ledger that its lease is lost.
    """

    def __init__(
        self,
        lease: Lease,
        *,
        job_timeout_s: float,
        lease_s: float,
        stop_grace_s: float,
        stopping: threading.Event,
        release: Callable[[], None],
    ) -> None:
        self._lease = lease
        self._job_timeout_s = job_timeout_s
        self._overdue_s = max(lease_s, 10.0)
        self._stop_grace_s = stop_grace_s
        self._stopping = stopping
        self._release = release
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join(1.0)

    def _watch(self) -> None:
        at_work = overdue = leaving = 0.0
        while not self._closed.wait(TICK_S):
            at_work += 0.0 if self._lease.waiting else TICK_S
            overdue = overdue + TICK_S if time.monotonic() > self._lease.valid_until else 0.0
            leaving = leaving + TICK_S if self._stopping.is_set() else 0.0
            if at_work > self._job_timeout_s:
                self._end("it exceeded ERRATA_JOB_TIMEOUT_S", EXIT_TIMEOUT)
            elif overdue > self._overdue_s:
                self._end("its lease ended long ago and could not be renewed", EXIT_TIMEOUT)
            elif leaving > self._stop_grace_s:
                self._give_back()
                self._end("it reached no safe point within ERRATA_STOP_GRACE_S", 0)

    def _give_back(self) -> None:
        """Release the job, without waiting long for a database that may hang."""
        thread = threading.Thread(target=self._release, name="release", daemon=True)
        thread.start()
        thread.join(RELEASE_S)

    def _end(self, why: str, status: int) -> None:
        last_resort = threading.Timer(RELEASE_S, os._exit, (status,))  # should the log hang too
        last_resort.daemon = True
        last_resort.start()
        logger.critical("Job %s: this worker ends itself: %s.", self._lease.claim.job_id, why)
        logging.shutdown()
        os._exit(status)

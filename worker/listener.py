"""RQ's worker as what waits for the doorbell: in this process and thread, without timeouts by signal.

A message is taken, thrown away unread, and the ledger asked for work; so it is after a few seconds without
one, and while Redis is away.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from redis import Redis
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer

from broker.queue import edit_queue

logger = logging.getLogger(__name__)

POLL_S = 2


class Listener(SimpleWorker):
    """Waits for messages of one queue, and asks for work.

    RQ's `work()` ends on some kinds of trouble with Redis; the caller makes a new one then.

    Args:
        redis: the client.
        model_id: the model.
        name: of this worker in Redis.
        work: does whatever is to be done, and returns when nothing is left.
        stopping: set once the process was asked to stop.
    """

    max_connection_wait_time = float(POLL_S)
    log_job_description = False

    def __init__(
        self, redis: Redis, model_id: str, name: str, work: Callable[[], None], stopping: threading.Event
    ) -> None:
        super().__init__(
            [edit_queue(redis, model_id)], name=name, connection=redis, serializer=JSONSerializer
        )
        self._work = work
        self._stopping = stopping
        self._working = False

    def request_exit(self) -> None:
        """Wait no more; called from a signal handler in the thread that works.

        Raises:
            StopRequested: nothing is being done; ends `work()` at once.
        """
        self._stop_requested = True
        if not self._working:
            raise StopRequested

    @property
    def dequeue_timeout(self) -> int:
        """Return how many seconds to wait for a message."""
        return POLL_S

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Ask for work, then say that this worker is alive; RQ calls it before and after each wait.

        Raises:
            StopRequested: the process was asked to stop.
        """
        if not self._working:
            self._working = True
            try:
                self._work()
            finally:
                self._working = False
        if self._stopping.is_set():
            raise StopRequested
        super().heartbeat(timeout, pipeline)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Throw a message away, whatever it says; the heartbeat that follows asks for work."""
        self.connection.delete(job.key, queue.intermediate_queue.key)

    def check_for_suspension(self, burst: bool) -> None:
        """Do not look: whoever can write to Redis must not be able to suspend a worker."""

    def run_maintenance_tasks(self) -> None:
        """Do none: the ledger knows what was left, and messages of others are not looked at."""

    def subscribe(self) -> None:
        """Listen to no commands: whoever can publish in Redis must not be able to stop or kill a worker."""

    def _install_signal_handlers(self) -> None:
        """Leave signals to the process, which calls `request_exit`."""

"""RQ's worker without its traps: no fork, no timeouts by signal, no remote commands, but heartbeats."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty
from rq.utils import now

from broker.queue import AllowlistedJob, edit_queue

logger = logging.getLogger(__name__)

WORKER_TTL_S = 30
MAINTENANCE_S = 10
HEARTBEAT_TTL_S = 10
HEARTBEAT_S = 3.0
DEQUEUE_S = 5


class NoDeathPenalty(BaseDeathPenalty):
    """No timeout: RQ's raises from a signal, anywhere in the work. The watchdog is the limit."""

    def setup_death_penalty(self) -> None:
        """Do nothing."""

    def cancel_death_penalty(self) -> None:
        """Do nothing."""


class ErrataWorker(SimpleWorker):
    """Takes edit jobs from one queue, in this process and thread.

    RQ's `work()` ends on any trouble with Redis; the caller makes a new worker then and keeps the model.
    """

    death_penalty_class = NoDeathPenalty
    max_connection_wait_time = 5.0

    def __init__(
        self,
        redis: Redis,
        model_id: str,
        name: str,
        busy: Callable[[bool], None],
        stopping: threading.Event,
    ) -> None:
        super().__init__(
            [edit_queue(redis, model_id)],
            name=name,
            connection=redis,
            job_class=AllowlistedJob,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_S,
            maintenance_interval=MAINTENANCE_S,
            exception_handlers=[],
        )
        self._busy = busy
        self._stopping = stopping
        self._beat_stop: threading.Event | None = None
        self._beat_thread: threading.Thread | None = None
        self.working = False

    def request_exit(self) -> None:
        """Stop taking jobs; called from a signal handler in the thread that works.

        Raises:
            StopRequested: no job is being done; ends `work()` at once.
        """
        self._stop_requested = True
        if not self.working:
            raise StopRequested

    @property
    def dequeue_timeout(self) -> int:
        """Return how many seconds to wait for a message before looking after other things."""
        return DEQUEUE_S

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Say that this worker is alive; an idle one notices a request to stop here at the latest.

        Raises:
            StopRequested: the process was asked to stop and no job is being done.
        """
        if self._stopping.is_set() and not self.working:
            raise StopRequested
        super().heartbeat(timeout, pipeline)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Do one job, marked as busy."""
        self.working = True
        self._busy(True)
        try:
            super().execute_job(job, queue)
        finally:
            self._stop_heartbeat()
            self.working = False
            self._busy(False)

    def get_heartbeat_ttl(self, job: Job) -> int:  # noqa: ARG002 - RQ's signature
        """Return how long a heartbeat stands, so that a killed worker's message is noticed soon."""
        return HEARTBEAT_TTL_S

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """Note the start of a job in Redis, then keep saying that it is worked on."""
        super().prepare_job_execution(job, remove_from_intermediate_queue)
        self._beat_stop = threading.Event()
        self._beat_thread = threading.Thread(
            target=self._beat, args=(job, self._beat_stop), name="heartbeat", daemon=True
        )
        self._beat_thread.start()

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:
        """End the heartbeats before RQ clears the job's keys, which a late one would bring back."""
        self._stop_heartbeat()
        super().handle_execution_ended(job, queue, heartbeat_ttl)

    def subscribe(self) -> None:
        """Listen to no commands: whoever can publish in Redis must not be able to stop or kill a worker."""

    def _install_signal_handlers(self) -> None:
        """Leave signals to the process, which calls `request_exit`."""

    def _beat(self, job: Job, stop: threading.Event) -> None:
        execution, registry = self.execution, job.started_job_registry
        while execution is not None and not stop.wait(HEARTBEAT_S):
            try:
                with self.connection.pipeline() as pipeline:
                    self.heartbeat(WORKER_TTL_S, pipeline=pipeline)
                    execution.heartbeat(registry, HEARTBEAT_TTL_S, pipeline)
                    job.heartbeat(now(), HEARTBEAT_TTL_S, pipeline, xx=True)
                    pipeline.execute()
            except RedisError as error:
                logger.info("A heartbeat of message %s was not sent: %s", job.id, error)

    def _stop_heartbeat(self) -> None:
        if self._beat_stop is not None and self._beat_thread is not None:
            self._beat_stop.set()
            self._beat_thread.join(HEARTBEAT_TTL_S)
        self._beat_stop = self._beat_thread = None

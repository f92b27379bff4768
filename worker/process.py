"""A worker process: waits for its model, makes it ready, serves it, and outlives its servers."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from types import FrameType
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError
from rq.exceptions import StopRequested

from broker import presence
from broker.connection import connect
from broker.settings import BrokerSettings
from ledger import Ledger
from ledger.errors import BlobStoreUnavailable, LedgerError, LedgerUnavailable, NotFound
from ledger.models import models
from ledger.records import ModelRecord
from malmen_core.errors import CoreError, ModelNotLoadable
from worker.announcer import Announcer
from worker.attribution import AttributionThread
from worker.composing import Desk
from worker.errors import WorkerError, WorkerStopping, problem
from worker.generation import GenerationThread
from worker.housekeeping import Housekeeper, RegistrationWatch
from worker.jobs import JobRunner
from worker.listener import POLL_S, Listener
from worker.preparing import CheckpointWatch, load, prepare
from worker.resident import Resident
from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 15.0
LEAD_S = 120.0
WATCH_S = 1.0
TELL_S = 1.0
ATTEMPTS = 3
EXIT_GENERATION = 71
CHANGED = (
    "; the checkpoint's files have changed since they were loaded, and a worker that starts now refuses them"
)


class GenerationEnded(Exception):
    """The generation thread has ended, or hangs."""


class WorkerProcess:
    """One worker of one model; `run` must be called from the main thread, which receives the signals.

    Attributes:
        worker_id: host, process id and a random part; names this process in leases and in Redis.
    """

    def __init__(self, settings: WorkerSettings, broker: BrokerSettings, ledger: Ledger) -> None:
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._settings = settings
        self._broker = broker
        self._ledger = ledger
        self._redis: Redis = connect(broker)
        self._stopping = threading.Event()
        self._listener: Listener | None = None
        self._led_at = self._told_at = time.monotonic()
        self._stage = ""
        self._announcer = Announcer(self._redis, settings.model, self.worker_id, settings.role)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit status."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        logger.info("Worker %s starts for model '%s'.", self.worker_id, self._settings.model)
        self._announcer.start()
        try:
            resident = self._become_ready()
            if resident is not None:
                self._serve(resident)
        except WorkerStopping:
            logger.info("Worker %s was stopped while it made the model ready.", self.worker_id)
        except GenerationEnded as error:
            logger.critical("Worker %s ends itself: %s.", self.worker_id, error)
            return EXIT_GENERATION
        finally:
            self._announcer.stop()
        logger.info("Worker %s has stopped.", self.worker_id)
        return 0

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        """Ask all to stop. An idle listener is woken by an exception; a job may reach a safe point."""
        first = not self._stopping.is_set()
        self._stopping.set()
        if first and self._listener is not None:
            self._listener.request_exit()

    def _become_ready(self) -> Resident | None:
        """Wait for the model's registration and make it resident; None when asked to stop before."""
        wait_s = FIRST_WAIT_S
        while not self._stopping.is_set():
            try:
                model = self._ledger.run(models.get, self._settings.model)
                if model.status == "failed":
                    self._fail((model.error or {}).get("detail", "register the model again"))
                elif model.status == "archived" or (model.status == "preparing" and not self._leads()):
                    self._announcer.say("waiting")
                    wait_s = FIRST_WAIT_S
                else:
                    self._announcer.say("preparing" if model.status == "preparing" else "loading")
                    resident = self._make_resident(model)
                    if resident is not None:
                        return resident
            except NotFound:
                self._announcer.say("waiting")
                wait_s = FIRST_WAIT_S
            except (LedgerUnavailable, BlobStoreUnavailable) as error:
                logger.warning("Worker %s waits %.0f s for the ledger: %s", self.worker_id, wait_s, error)
            self._stopping.wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        return None

    def _make_resident(self, model: ModelRecord) -> Resident | None:
        """Load or prepare the model; None if that fails, whatever the reason, which is said.

        A model that was never ready is marked as failed. One that was ready stays so: other workers may serve
        it, and this one tries again later.
        """
        started = time.monotonic()
        try:
            if model.status == "ready":
                resident = load(self._ledger, model, self._settings)
            else:
                self._count_attempt(model)
                resident = prepare(self._ledger, model, self._settings, self._check)
        except (LedgerUnavailable, BlobStoreUnavailable):
            raise
        except WorkerStopping:
            self._forget_attempts()
            raise
        except Exception as error:
            known = isinstance(error, CoreError | LedgerError | WorkerError)
            why = problem(error)
            logger.error("Model '%s' cannot be served here: %s", model.id, error, exc_info=not known)
            if model.status == "preparing":
                self._ledger.run(models.fail, model.id, why)
                self._forget_attempts()
            self._fail(why["detail"])
            return None
        self._forget_attempts()
        logger.info("Model '%s' is resident after %.1f s.", model.id, time.monotonic() - started)
        return resident

    def _fail(self, reason: str) -> None:
        self._announcer.say(f"{presence.FAILED}{reason}")

    def _count_attempt(self, model: ModelRecord) -> None:
        """Refuse a model that ended the process each time that it was prepared.

        Raises:
            ModelNotLoadable: so it is.
        """
        with suppress(RedisError):
            if presence.count_attempt(self._redis, model.id) > ATTEMPTS:
                raise ModelNotLoadable(
                    f"Preparing the model ended the worker's process {ATTEMPTS} times.",
                    "See the ends of the workers' logs, and whether memory suffices; then register it again.",
                )

    def _forget_attempts(self) -> None:
        with suppress(RedisError):
            presence.forget_attempts(self._redis, self._settings.model)

    def _leads(self) -> bool:
        """Return whether this worker is the one to prepare the model; without Redis, each does it."""
        try:
            return presence.lead(self._redis, self._settings.model, self.worker_id, LEAD_S)
        except RedisError:
            return True

    def _check(self, stage: str, done: int, total: int) -> None:
        """Stop when asked to; now and then keep the lead, and say and log how far the preparation is."""
        if self._stopping.is_set():
            raise WorkerStopping
        if stage != self._stage or time.monotonic() - self._told_at > TELL_S:
            self._stage, self._told_at = stage, time.monotonic()
            with suppress(LedgerUnavailable):
                self._ledger.run(models.note_progress, self._settings.model, stage, done, total)
        if time.monotonic() - self._led_at > LEAD_S / 8:
            self._led_at = time.monotonic()
            self._leads()
            logger.info("Model '%s': %s, %d of %d.", self._settings.model, stage, done, total)

    def _serve(self, resident: Resident) -> None:
        """Answer calls, do jobs, or both, until asked to stop."""
        role, stopping = self._settings.role, self._stopping
        generation = GenerationThread(
            self._ledger, self._redis, resident, self._settings, self.worker_id, stopping
        )
        registered = self._registered(resident.model_id)
        checkpoint = CheckpointWatch(registered, stopping)
        checkpoint.start()
        RegistrationWatch(self._ledger, registered, stopping).start()
        if role != "edit":
            generation.start()
            AttributionThread(self._ledger, self._redis, resident, self.worker_id, stopping).start()
        uneditable = f"; not edited: {resident.editor_problem}" if resident.editor_problem else ""
        self._announcer.watch(
            lambda: generation.failure if role != "edit" else None,
            lambda: CHANGED if checkpoint.changed else uneditable,
        )
        self._announcer.say("idle")
        try:
            if role == "generate":
                self._watch(generation)
            else:
                desk = Desk(self._ledger, resident)
                Housekeeper(self._ledger, resident.model_id, stopping).start()
                self._listen(JobRunner(self.worker_id, desk, self._settings, stopping, self._on_busy))
        finally:
            if generation.is_alive():
                generation.join(2.0)

    def _registered(self, model_id: str) -> ModelRecord:
        """Return the model, once the ledger answers.

        Raises:
            WorkerStopping: the process was asked to stop before.
        """
        while not self._stopping.is_set():
            try:
                return self._ledger.run(models.get, model_id)
            except LedgerUnavailable as error:
                logger.warning("Worker %s waits for the ledger: %s", self.worker_id, error)
            self._stopping.wait(FIRST_WAIT_S)
        raise WorkerStopping

    def _watch(self, generation: GenerationThread) -> None:
        """Wait until asked to stop.

        Raises:
            GenerationEnded: nothing is answered any more; another process must be started.
        """
        while not self._stopping.wait(WATCH_S):
            failure = generation.failure
            if failure is not None and not self._stopping.is_set():
                raise GenerationEnded(failure)

    def _listen(self, runner: JobRunner) -> None:
        """Do jobs; whatever happens to Redis, look for more, with the model still loaded."""
        while not self._stopping.is_set():
            try:
                name, redis = f"{self.worker_id}-{uuid4().hex[:4]}", connect(self._broker)
                self._listener = Listener(
                    redis, runner.desk.resident.model_id, name, runner.work_off, self._stopping
                )
                self._listener.work(logging_level="WARNING")
            except RedisError as error:
                logger.warning("Worker %s lost the queue: %s", self.worker_id, error)
            except StopRequested:
                break
            finally:
                self._listener = None
            runner.work_off()
            self._stopping.wait(POLL_S)

    def _on_busy(self, busy: bool) -> None:
        self._announcer.say("editing" if busy else "idle")

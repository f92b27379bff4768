"""Doing jobs: claims them one after the other, and sees to it that each ends or is given back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ledger.errors import BlobStoreUnavailable, JobCancelled, LeaseLost, LedgerError, LedgerUnavailable
from ledger.jobs import jobs
from ledger.records import Claim, VersionRecord
from malmen_core.errors import CoreError
from worker.composing import Desk
from worker.editing import perform
from worker.errors import WorkerStopping, internal_problem, problem
from worker.lease import Lease
from worker.settings import WorkerSettings
from worker.watchdog import Watchdog

logger = logging.getLogger(__name__)

PUT_OFF_S = 15.0
RETRY_S = 1.0


@dataclass(frozen=True)
class JobRunner:
    """Does the jobs of one model, in the thread that calls it.

    Attributes:
        worker_id: names this process as a job's holder.
        desk: ledger and loaded model.
        settings: the worker's settings.
        stopping: set once the process was asked to stop.
        busy: told when a job begins and ends.
    """

    worker_id: str
    desk: Desk
    settings: WorkerSettings
    stopping: threading.Event
    busy: Callable[[bool], None] = lambda _: None

    def work_off(self) -> None:
        """Do jobs until there is none left to take; the ledger may be away."""
        settings = self.settings
        while not self.stopping.is_set():
            try:
                claim = self.desk.ledger.run(
                    jobs.claim_next,
                    self.desk.resident.model_id,
                    self.worker_id,
                    settings.lease_s,
                    settings.max_attempts,
                )
            except LedgerUnavailable as error:
                logger.warning("No job was claimed: %s", error)
                return
            if claim is None:
                return
            self.busy(True)
            try:
                _work(self, claim)
            finally:
                self.busy(False)


def _work(runner: JobRunner, claim: Claim) -> None:
    settings = runner.settings
    lease = Lease(runner.desk.ledger, claim, settings.lease_s, runner.stopping)
    watchdog = Watchdog(
        lease,
        job_timeout_s=settings.job_timeout_s,
        lease_s=settings.lease_s,
        stop_grace_s=settings.stop_grace_s,
        stopping=runner.stopping,
        release=lambda: _release(runner, claim),
    )
    put_off = False
    with watchdog, lease:
        try:
            made = perform(runner.desk, lease, settings.verify_live_facts)
            number = made.number if isinstance(made, VersionRecord) else "no"
            logger.info("Job %s made version %s.", claim.job_id, number)
        except (LeaseLost, JobCancelled) as error:
            logger.info("Job %s was left: %s", claim.job_id, error)
        except WorkerStopping:
            _release(runner, claim)
        except (LedgerUnavailable, BlobStoreUnavailable) as error:
            logger.warning("Job %s is put off: %s", claim.job_id, error)
            put_off = True
        except (CoreError, LedgerError) as error:
            logger.warning("Job %s failed: %s", claim.job_id, error)
            _fail(runner, claim, problem(error))
        except Exception as error:
            if claim.attempt >= settings.max_attempts:
                _fail(runner, claim, internal_problem(error))
            else:
                _release(runner, claim, counted=True)
            logger.exception("Job %s met an unforeseen %s.", claim.job_id, type(error).__name__)
    if put_off:
        _put_off(runner, claim)


def _put_off(runner: JobRunner, claim: Claim) -> None:
    """Give back a job for which the servers were away: no attempt at it, as soon as the ledger answers."""
    while not runner.stopping.is_set():
        try:
            runner.desk.ledger.run(jobs.release, claim, counted=False, delay_s=PUT_OFF_S)
            return
        except LedgerUnavailable as error:
            logger.warning("Job %s cannot be given back yet: %s", claim.job_id, error)
        except (LeaseLost, JobCancelled) as reason:
            logger.info("Job %s was not given back: %s", claim.job_id, reason)
            return
        runner.stopping.wait(RETRY_S)


def _fail(runner: JobRunner, claim: Claim, error: dict[str, object]) -> None:
    """Record a failure; if that is not possible now, the lease runs out and the job is tried again."""
    try:
        runner.desk.ledger.run(jobs.fail, claim, error)
    except (LeaseLost, JobCancelled, LedgerUnavailable) as reason:
        logger.warning("The failure of job %s was not recorded: %s", claim.job_id, reason)


def _release(runner: JobRunner, claim: Claim, *, counted: bool = False) -> None:
    """Give a job back, so that another worker can take it at once; `counted` as an attempt at it, or not."""
    try:
        runner.desk.ledger.run(jobs.release, claim, counted=counted)
        logger.info("Job %s was given back.", claim.job_id)
    except (LeaseLost, JobCancelled, LedgerUnavailable) as reason:
        logger.warning("Job %s was not given back: %s", claim.job_id, reason)

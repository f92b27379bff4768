"""The entry point of queue messages: `worker.jobs.run(job_id)`, the only function that the queue can name."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from ledger.errors import BlobStoreUnavailable, JobCancelled, LeaseLost, LedgerError, LedgerUnavailable
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
class Shift:
    """The process that works: its identity, its model and its wish to stop.

    Attributes:
        worker_id: names this process as a job's holder.
        desk: ledger and loaded model.
        settings: the worker's settings.
        stopping: set once the process was asked to stop.
    """

    worker_id: str
    desk: Desk
    settings: WorkerSettings
    stopping: threading.Event


_shift: Shift | None = None


def begin(shift: Shift | None) -> None:
    """Say what `run` works with; RQ calls it by name, so it cannot be handed over."""
    global _shift
    _shift = shift


def run(job_id: str) -> None:
    """Claim a job and do it.

    Returns quietly where there is nothing to do or nothing was lost: the job is finished, another worker
    holds it, it was cancelled, or it stays in the ledger for another attempt.

    Raises:
        RuntimeError: no model is loaded in this process. Exception: whatever unforeseen error the work met;
        the job is given back, or failed at its last attempt.
    """
    if _shift is None:
        raise RuntimeError(
            "worker.jobs.run was called outside of a worker process; start `python -m worker`."
        )
    try:
        claim = _shift.desk.ledger.claim(
            job_id, _shift.worker_id, _shift.settings.lease_s, _shift.settings.max_attempts
        )
    except LedgerUnavailable as error:
        logger.warning("Job %s was not claimed and stays queued: %s", job_id, error)
        return
    if claim is None:
        logger.info("Job %s needs nothing: it is finished, or another worker holds it.", job_id)
        return
    if claim.model_id != _shift.desk.resident.model_id:
        logger.error("Job %s is of model '%s', which this worker does not serve.", job_id, claim.model_id)
        _release(_shift, claim)
        return
    _work(_shift, claim)


def _work(shift: Shift, claim: Claim) -> None:
    settings = shift.settings
    lease = Lease(shift.desk.ledger, claim, settings.lease_s, shift.stopping)
    watchdog = Watchdog(
        lease,
        job_timeout_s=settings.job_timeout_s,
        lease_s=settings.lease_s,
        stop_grace_s=settings.stop_grace_s,
        stopping=shift.stopping,
        release=lambda: _release(shift, claim),
    )
    put_off = False
    with watchdog, lease:
        try:
            made = perform(shift.desk, lease, settings.verify_live_facts)
            number = made.number if isinstance(made, VersionRecord) else "no"
            logger.info("Job %s made version %s.", claim.job_id, number)
        except (LeaseLost, JobCancelled) as error:
            logger.info("Job %s was left: %s", claim.job_id, error)
        except WorkerStopping:
            _release(shift, claim)
        except (LedgerUnavailable, BlobStoreUnavailable) as error:
            logger.warning("Job %s is put off: %s", claim.job_id, error)
            put_off = True
        except (CoreError, LedgerError) as error:
            logger.warning("Job %s failed: %s", claim.job_id, error)
            _fail(shift, claim, problem(error))
        except Exception as error:
            if claim.attempt >= settings.max_attempts:
                _fail(shift, claim, internal_problem(error))
            else:
                _release(shift, claim, counted=True)
            raise
    if put_off:
        _put_off(shift, claim)


def _put_off(shift: Shift, claim: Claim) -> None:
    """Give back a job for which the servers were away: no attempt at it, as soon as the ledger answers."""
    while not shift.stopping.is_set():
        try:
            shift.desk.ledger.release(claim, counted=False, delay_s=PUT_OFF_S)
            return
        except LedgerUnavailable as error:
            logger.warning("Job %s cannot be given back yet: %s", claim.job_id, error)
        except (LeaseLost, JobCancelled) as reason:
            logger.info("Job %s was not given back: %s", claim.job_id, reason)
            return
        shift.stopping.wait(RETRY_S)


def _fail(shift: Shift, claim: Claim, error: dict[str, object]) -> None:
    """Record a failure; if that is not possible now, the lease runs out and the job is tried again."""
    try:
        shift.desk.ledger.fail_job(claim, error)
    except (LeaseLost, JobCancelled, LedgerUnavailable) as reason:
        logger.warning("The failure of job %s was not recorded: %s", claim.job_id, reason)


def _release(shift: Shift, claim: Claim, *, counted: bool = False) -> None:
    """Give a job back, so that another worker can take it at once; `counted` as an attempt at it, or not."""
    try:
        shift.desk.ledger.release(claim, counted=counted)
        logger.info("Job %s was given back.", claim.job_id)
    except (LeaseLost, JobCancelled, LedgerUnavailable) as reason:
        logger.warning("Job %s was not given back: %s", claim.job_id, reason)

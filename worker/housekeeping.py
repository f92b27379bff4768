"""What a worker does beside its jobs.

It sees whether its model is still registered, withdraws expired facts, and removes blobs that nothing names and
idempotency keys whose time is over.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from ledger import Ledger
from ledger.auth import idempotency
from ledger.edits import expiry
from ledger.edits.expiry import Looked
from ledger.errors import LedgerError
from ledger.models import models
from ledger.records import ModelRecord

logger = logging.getLogger(__name__)

EXPIRY_S = 1.0
COLLECT_S = 3600.0
LONGEST_WAIT_S = 15.0
REGISTRATION_S = 2.0


class RegistrationWatch(threading.Thread):
    """Ends the process once its model is archived or registered anew; the next one waits, or loads that."""

    def __init__(self, ledger: Ledger, model: ModelRecord, stopping: threading.Event) -> None:
        super().__init__(name="registration-watch", daemon=True)
        self._ledger, self._model, self._stopping = ledger, model, stopping

    def run(self) -> None:
        """Look now and then; servers may be away."""
        while not self._stopping.wait(REGISTRATION_S):
            try:
                now = self._ledger.run(models.get, self._model.id)
            except (LedgerError, SQLAlchemyError) as error:
                logger.warning("Whether the model is still registered is not known: %s", error)
                continue
            if (now.status, now.digest, now.editor_digest) != (
                "ready",
                self._model.digest,
                self._model.editor_digest,
            ):
                logger.warning("Model '%s' is %s: this process ends.", now.id, now.status)
                os.kill(os.getpid(), signal.SIGTERM)
                return


class Housekeeper(threading.Thread):
    """Looks now and then, until the process stops; servers may be away, and it tries again."""

    def __init__(self, ledger: Ledger, model_id: str, stopping: threading.Event) -> None:
        super().__init__(name="housekeeping", daemon=True)
        self._ledger = ledger
        self._model_id = model_id
        self._stopping = stopping
        self._looked: Looked | None = None
        self._collected = time.monotonic()

    def run(self) -> None:
        """Look, wait, look again."""
        wait_s = EXPIRY_S
        while not self._stopping.wait(wait_s):
            try:
                made, self._looked = self._ledger.run(expiry.withdraw, self._model_id, self._looked)
                if made is not None:
                    logger.info("Withdrawal %s asks for %d expired facts.", made.id, len(made.fact_ids))
                self._collect()
                wait_s = EXPIRY_S
            except (LedgerError, SQLAlchemyError) as error:
                logger.warning("Expired facts and unnamed blobs wait: %s", error)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _collect(self) -> None:
        if time.monotonic() - self._collected < min(COLLECT_S, self._ledger.blob_grace_s):
            return
        self._collected = time.monotonic()
        self._ledger.run(idempotency.forget)
        gone = self._ledger.collect()
        if gone.blobs:
            logger.info("Removed %d blobs that nothing names, %d bytes.", gone.blobs, gone.bytes)

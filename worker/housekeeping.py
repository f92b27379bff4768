"""What a worker does beside its jobs: it withdraws expired facts, and removes blobs that nothing names."""

from __future__ import annotations

import logging
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from ledger import Ledger
from ledger.edits import expiry
from ledger.edits.expiry import Looked
from ledger.errors import LedgerError

logger = logging.getLogger(__name__)

EXPIRY_S = 1.0
COLLECT_S = 3600.0
LONGEST_WAIT_S = 15.0


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
        gone = self._ledger.collect()
        if gone.blobs:
            logger.info("Removed %d blobs that nothing names, %d bytes.", gone.blobs, gone.bytes)

"""What an application does beside answering: its first key, and warm tokenizers."""

from __future__ import annotations

import logging
import threading

from sqlalchemy.exc import SQLAlchemyError

from ledger.auth.keys import RevokedSecret, WeakSecret
from ledger.errors import LedgerError
from ledger.models import models
from service import admin_key
from service.context import Services
from service.paging import every
from service.problems import Problem

logger = logging.getLogger(__name__)
RETRY_S = 1.0


class Background:
    """Starts what needs the ledger, now or as soon as the ledger is there."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """See to the admin key, then warm the tokenizers in a thread.

        Without a ledger the service starts all the same, answers 503, and tries again each second.
        """
        keyed = self._ensure_key()
        self._thread = threading.Thread(target=self._run, args=(keyed,), name="startup", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the doorbell and the thread."""
        self._stopping.set()
        self._services.doorbell.stop()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _ensure_key(self) -> bool:
        try:
            admin_key.ensure(self._services.ledger, self._services.settings)
        except (RevokedSecret, WeakSecret) as error:
            logger.error("%s %s", error, error.remedy)
        except (LedgerError, SQLAlchemyError) as error:
            logger.warning("No admin key yet, as the ledger is not usable: %s", error)
            return False
        return True

    def _run(self, keyed: bool) -> None:
        while not keyed and not self._stopping.wait(RETRY_S):
            keyed = self._ensure_key()
        try:
            self._warm()
        except (LedgerError, SQLAlchemyError) as error:
            logger.warning("Tokenizers are loaded at first use instead: %s", error)

    def _warm(self) -> None:
        with self._services.ledger.transaction() as tx:
            registered = [model for model in every(tx, models.list_all) if model.digest]
        for model in registered:
            if self._stopping.is_set():
                return
            try:
                self._services.tokenizers.get(model)
            except Problem as problem:
                logger.warning("%s", problem.detail)

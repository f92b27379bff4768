"""The relay: carries what the ledger has accepted to the queue, and rings again for what nobody works on.

Every API process and every worker runs one. The outbox is read with `FOR UPDATE SKIP LOCKED`, so they do not
disturb each other, and any one of them is enough. It wakes at NOTIFY, and polls besides, since a notification
can be lost. Now and then it also has blobs removed that nothing names.
"""

from __future__ import annotations

import logging
import threading
import time

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from broker import queue
from ledger import Ledger
from ledger.errors import LedgerError

logger = logging.getLogger(__name__)

POLL_S = 1.0
RECONCILE_S = 1.0
OLDER_THAN_S = 1.0
BATCH = 100
LONGEST_WAIT_S = 5.0
COLLECT_S = 3600.0


class Relay:
    """Threads of this process: one waits for notifications, one rings, one collects blobs now and then.

    Losing either server is survived, and so is a ledger that is not migrated yet or refuses something: the
    threads log it, wait a little longer each time, and go on.
    """

    def __init__(self, ledger: Ledger, redis: Redis) -> None:
        self._ledger = ledger
        self._redis = redis
        self._stopped = threading.Event()
        self._wake = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start ringing; does nothing if started already."""
        if self._threads:
            return
        for target, name in (
            (self._ring_forever, "relay"),
            (self._listen_forever, "relay-listener"),
            (self._collect_forever, "relay-collector"),
        ):
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop ringing; the listener, a daemon, ends by itself soon after."""
        self._stopped.set()
        self._wake.set()
        if self._threads:
            self._threads[0].join(timeout_s)

    @property
    def running(self) -> bool:
        """Whether all of its threads are at work."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    def relay_outbox(self) -> int:
        """Ring for what was just accepted; return how many rows were carried over."""
        carried = 0
        while not self._stopped.is_set():
            with self._ledger.take_outbox(BATCH) as rows:
                for row in rows:
                    queue.ring(self._redis, row.model_id, row.job_id, row.attempt)
            carried += len(rows)
            if len(rows) < BATCH:
                break
        return carried

    def reconcile(self, older_than_s: float = OLDER_THAN_S) -> int:
        """Ring again for jobs that nobody holds and whose message is gone; return how many."""
        rung = 0
        present: dict[str, set[str]] = {}
        for row in self._ledger.jobs_to_ring(older_than_s):
            if row.model_id not in present:
                present[row.model_id] = queue.waiting(self._redis, row.model_id)
            if queue.message_id(row.job_id, row.attempt) in present[row.model_id]:
                continue
            if queue.ring(self._redis, row.model_id, row.job_id, row.attempt):
                logger.info("Rang again for job %s (attempt %d).", row.job_id, row.attempt)
                rung += 1
        return rung

    def _ring_forever(self) -> None:
        wait_s, reconciled = POLL_S, float("-inf")
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                self.relay_outbox()
                if time.monotonic() - reconciled >= RECONCILE_S:
                    self.reconcile()
                    self._ledger.withdraw_expired()
                    reconciled = time.monotonic()
                wait_s = POLL_S
            except (RedisError, LedgerError, SQLAlchemyError) as error:
                logger.warning("The relay waits %.0f s: %s", wait_s, error)
                self._stopped.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                continue
            self._wake.wait(wait_s)

    def _listen_forever(self) -> None:
        wait_s = POLL_S
        while not self._stopped.is_set():
            try:
                for grown in self._ledger.listen():
                    if self._stopped.is_set():
                        return
                    if grown:
                        self._wake.set()
                    wait_s = POLL_S
            except (LedgerError, SQLAlchemyError) as error:
                logger.warning("The relay's listener waits %.0f s: %s", wait_s, error)
            self._stopped.wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _collect_forever(self) -> None:
        while not self._stopped.wait(min(COLLECT_S, self._ledger.blob_grace_s)):
            try:
                gone = self._ledger.collect()
                if gone.blobs:
                    logger.info("Removed %d blobs that nothing names, %d bytes.", gone.blobs, gone.bytes)
            except (LedgerError, SQLAlchemyError) as error:
                logger.warning("Blobs that nothing names were not removed: %s", error)

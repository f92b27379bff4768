"""The doorbell of edit jobs: an RQ queue for each model, whose messages say only that there may be work.

What is to be done is asked of the ledger, so a message may be lost, doubled or late, and whatever it says is
never run. A worker that no message reaches asks the ledger every few seconds.
"""

from __future__ import annotations

import logging
import threading
from urllib.parse import quote

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.serializers import JSONSerializer

logger = logging.getLogger(__name__)

MESSAGE = "errata.doorbell"
MOST_WAITING = 16
TTL_S = 3600
STOP_S = 5.0


def edit_queue(redis: Redis, model_id: str) -> Queue:
    """Return the queue of one model. A worker listens to exactly one such queue."""
    return Queue(f"errata-edits-{quote(model_id, safe='')}", connection=redis, serializer=JSONSerializer)


def ring(redis: Redis, model_id: str) -> None:
    """Wake a worker of a model, unless many messages wait already.

    Raises:
        redis.exceptions.RedisError: the server could not be reached; workers will look by themselves.
    """
    queue = edit_queue(redis, model_id)
    if redis.llen(queue.key) < MOST_WAITING:
        queue.enqueue_call(MESSAGE, args=[model_id], result_ttl=0, ttl=TTL_S)


class Doorbell:
    """Rings from a thread of its own, so that nobody waits for Redis; a model is rung for once at a time."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._models: set[str] = set()
        self._wake = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
        self._thread.start()

    def ring(self, model_id: str) -> None:
        """Wake a worker of a model soon; call it once what is to be done is committed."""
        with self._wake:
            self._models.add(model_id)
            self._wake.notify()

    def stop(self) -> None:
        """Ring for what is still to be rung for, then stop."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._models or self._stopped)
                if not self._models:
                    return
                model_id = self._models.pop()
            try:
                ring(self._redis, model_id)
            except RedisError as error:
                logger.warning("A worker of model %s will look by itself: %s", model_id, error)

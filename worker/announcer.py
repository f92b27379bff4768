"""The presence thread: says every few seconds that this worker is alive and what it does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from redis import Redis
from redis.exceptions import RedisError

from broker import presence

logger = logging.getLogger(__name__)

EVERY_S = 2.0
TTL_S = 10.0


class Announcer(threading.Thread):
    """Announces a worker until stopped; Redis may go and come back."""

    def __init__(self, redis: Redis, model_id: str, worker_id: str, role: presence.Role = "both") -> None:
        super().__init__(name="announcer", daemon=True)
        self._redis = redis
        self._model_id = model_id
        self._worker_id = worker_id
        self._role: presence.Role = role
        self._state = "starting"
        self._failure: Callable[[], str | None] = lambda: None
        self._note: Callable[[], str] = str
        self._changed = threading.Event()
        self._stopped = False

    def say(self, state: str) -> None:
        """Change the announced state, at once."""
        self._state = state
        self._changed.set()

    def watch(self, failure: Callable[[], str | None], note: Callable[[], str]) -> None:
        """From now on, announce a failure whenever the first gives one, and what the second adds."""
        self._failure, self._note = failure, note

    def stop(self) -> None:
        """Announce no more, and take the last announcement back."""
        self._stopped = True
        self._changed.set()
        self.join(2.0)

    def run(self) -> None:
        """Announce, wait, announce again."""
        reachable = True
        while not self._stopped:
            self._changed.clear()
            try:
                failure = self._failure()
                state = self._state + self._note() if failure is None else f"{presence.FAILED}{failure}"
                presence.announce(self._redis, self._model_id, self._worker_id, state, TTL_S, self._role)
                reachable = True
            except RedisError as error:
                if reachable:
                    logger.warning("This worker cannot announce itself: %s", error)
                reachable = False
            self._changed.wait(EVERY_S)
        try:
            presence.withdraw(self._redis, self._model_id, self._worker_id)
        except RedisError as error:
            logger.info("This worker's presence runs out by itself: %s", error)

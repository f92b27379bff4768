"""Which facts of a version are nearest to a prompt, answered from their stored statistics."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from heapq import nsmallest

from redis import Redis

from broker import generation as channel
from broker.generation import AttributionRequest, GenerationCall
from ledger import Ledger
from ledger.errors import LedgerError
from ledger.versions import versions
from malmen_core.editing.statistics import Statistics
from malmen_core.errors import CoreError
from malmen_core.evaluation.attribution import Directions, edited_directions, prompt_directions, similarity
from worker.errors import WorkerError, WorkerStopping
from worker.generation import WAIT_S, answering, refuse
from worker.resident import Resident

logger = logging.getLogger(__name__)

CHECK_S = 0.25
CACHE_BYTES = 256 * 2**20


class _Abandoned(Exception):
    """Nobody waits for the answer any more."""


class Attribution:
    """Finds the nearest facts; keeps the directions of the edit sets that were read last, up to a limit.

    Not thread-safe.
    """

    def __init__(self, ledger: Ledger, resident: Resident, cache_bytes: int = CACHE_BYTES) -> None:
        self._ledger, self._resident, self._cache_bytes = ledger, resident, cache_bytes
        self._cache: OrderedDict[str, Mapping[str, Directions]] = OrderedDict()

    def nearest(
        self, version: int, request: AttributionRequest, check: Callable[[], None]
    ) -> list[tuple[str, int, float]]:
        """Edit set, position and similarity of the facts that are nearest to a prompt, the nearest first.

        Args:
            version: its number.
            request: the prompt, and how many facts.
            check: called before each edit set is read; raises to abort.

        Raises:
            PromptTooLong: the prompt has no tokens, or does not fit.
            LedgerError: the version or its statistics cannot be read.
        """
        directions = prompt_directions(self._resident.base, request.prompt)
        found: list[tuple[float, str, int]] = []
        for member in self._ledger.run(versions.members_of, self._resident.model_id, version).values():
            check()
            scores = similarity(directions, self._of(member.statistics_digest))
            left_out = set(member.left_out)
            found += [(-score, member.edit_set_id, at) for at, score in scores.items() if at not in left_out]
        return [(edit_set_id, at, -minus) for minus, edit_set_id, at in nsmallest(request.limit, found)]

    def _of(self, digest: str) -> Mapping[str, Directions]:
        if digest not in self._cache:
            statistics = Statistics.from_bytes(self._ledger.blobs.get(digest))
            self._cache[digest] = edited_directions(self._resident.base, statistics)
        self._cache.move_to_end(digest)
        found = self._cache[digest]
        while len(self._cache) > 1 and sum(map(_size, self._cache.values())) > self._cache_bytes:
            self._cache.popitem(last=False)
        return found


def _size(directions: Mapping[str, Directions]) -> int:
    return sum(part.rows_TU.nbytes + part.fact_T.nbytes for part in directions.values())


class AttributionThread(threading.Thread):
    """Answers calls for the facts nearest to a prompt, one after the other, until told to stop."""

    def __init__(
        self, ledger: Ledger, redis: Redis, resident: Resident, worker_id: str, stopping: threading.Event
    ) -> None:
        super().__init__(name="attribution", daemon=True)
        self._redis, self._model_id, self._worker_id = redis, resident.model_id, worker_id
        self._attribution, self._stopping = Attribution(ledger, resident), stopping
        self._asked_at = 0.0

    def run(self) -> None:
        """Take and answer calls; Redis may go and come back."""
        answering("attribution", self._answer_next, self._stopping)

    def _answer_next(self) -> None:
        call = channel.receive(self._redis, self._model_id, self._worker_id, WAIT_S, "attribution")
        if not isinstance(call, GenerationCall):
            return
        assert isinstance(call.request, AttributionRequest)
        try:
            facts = self._attribution.nearest(call.version, call.request, lambda: self._check(call))
            channel.reply(self._redis, [(call.id, {"finish_reason": "stop", "facts": facts})])
        except _Abandoned:
            return
        except (CoreError, LedgerError, WorkerError) as error:
            refuse(self._redis, call, error)
        except Exception as error:
            logger.exception("The facts nearest to a prompt were not found.")
            refuse(self._redis, call, error)

    def _check(self, call: GenerationCall) -> None:
        """Leave a call that nobody waits for, or that this worker has no more time for."""
        if self._stopping.is_set():
            raise WorkerStopping
        now = time.monotonic()
        if now - self._asked_at < CHECK_S:
            return
        self._asked_at = now
        if time.time() > call.deadline or channel.is_cancelled(self._redis, call.id):
            raise _Abandoned

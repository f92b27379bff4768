"""The generation thread: takes calls from the channel and answers them together, beside whatever edit runs.

A call is for text, or for the facts that a prompt touches.

A call names a version by number, and its answer carries the digest of the weights that produced it. Whatever
goes wrong becomes a problem event for the one who asked; the thread goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable, Iterator
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from broker import generation as channel
from broker.generation import GenerationCall
from ledger import Ledger
from ledger.errors import LedgerError
from malmen_core.errors import CoreError
from malmen_core.generate import Chunk, GenerationRequest, Writer
from malmen_core.overlay import Version
from worker.errors import InvalidRequest, WorkerError, WorkerStopping, internal_problem, problem
from worker.resident import Resident
from worker.settings import WorkerSettings
from worker.touching import Touching

logger = logging.getLogger(__name__)

WAIT_S = 1.0
LONGEST_WAIT_S = 5.0
CANCEL_CHECK_S = 0.25
FIELDS: dict[str, tuple[tuple[type, ...], str]] = {
    "prompt": ((str,), "a text"),
    "max_new_tokens": ((int,), "a whole number"),
    "temperature": ((int, float), "a number"),
    "top_p": ((int, float), "a number"),
    "seed": ((int,), "a whole number"),
    "stop": ((list, tuple), "a list of texts"),
}


class _Abandoned(Exception):
    """Nobody waits for the answer any more."""


class GenerationThread(threading.Thread):
    """Answers calls, several at a time, until told to stop."""

    def __init__(
        self,
        ledger: Ledger,
        redis: Redis,
        resident: Resident,
        settings: WorkerSettings,
        worker_id: str,
        stopping: threading.Event,
    ) -> None:
        super().__init__(name="generation", daemon=True)
        self._ledger = ledger
        self._redis = redis
        self._resident = resident
        self._settings = settings
        self._worker_id = worker_id
        self._stopping = stopping
        self._deltas: dict[int, str | None] = {}
        self._touching = Touching(ledger, resident)
        self._checked = time.monotonic()
        self._begin_anew()

    def run(self) -> None:
        """Take and answer calls; Redis may go and come back."""
        wait_s = WAIT_S
        while not self._stopping.is_set():
            try:
                self._take()
                self._leave_abandoned()
                self._write()
                wait_s = WAIT_S
            except RedisError as error:
                logger.warning("Generation waits %.0f s: %s", wait_s, error)
                self._begin_anew()  # what was not delivered is lost, and an answer with a gap is worse
                self._stopping.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        with suppress(RedisError):
            self._fail_all(problem(WorkerStopping()))

    def _begin_anew(self) -> None:
        """Forget whatever is being written."""
        self._writer = Writer(
            self._resident.base,
            together=self._settings.generation_batch,
            tokens=self._settings.generation_tokens,
        )
        self._calls: dict[Hashable, tuple[GenerationCall, Version]] = {}

    def _take(self) -> None:
        """Take calls while there is room; wait for one only where nothing is being written."""
        wait_s = 0.0 if self._calls else WAIT_S
        while self._writer.has_room and not self._stopping.is_set():
            call = channel.receive(self._redis, self._resident.model_id, wait_s, self._worker_id)
            if call is None:
                return
            self._begin(call)
            wait_s = 0.0

    def _begin(self, call: GenerationCall) -> None:
        """Begin a call's answer; one of another kind than text is given at once. Raises only `RedisError`."""
        try:
            if call.kind == channel.TOUCHING:
                facts = self._touching.nearest(call.version, call.request, lambda: self._check(call))
                channel.reply(self._redis, call.id, {"finish_reason": "stop", "facts": facts})
            elif call.kind == channel.GENERATE:
                request, version = read_request(call.request), self._version(call.version)
                self._writer.add(call.id, version, request)
                self._calls[call.id] = call, version
            else:
                raise InvalidRequest(f"there is no kind {call.kind!r}")
        except RedisError:
            raise
        except _Abandoned:
            logger.info("Generation call %s was abandoned.", call.id)
        except (CoreError, LedgerError, WorkerError) as error:
            logger.info("Generation call %s: %s", call.id, error)
            channel.reply(self._redis, call.id, {"error": problem(error)})
        except Exception as error:
            logger.exception("Generation call %s failed.", call.id)
            channel.reply(self._redis, call.id, {"error": internal_problem(error)})

    def _write(self) -> None:
        """Write a token of each answer, and send what came of it. Raises only `RedisError`."""
        try:
            written = self._writer.step()
        except Exception as error:
            logger.exception("%d generation calls failed.", len(self._calls))
            self._fail_all(internal_problem(error))
            self._begin_anew()
            return
        for key, chunk in written:
            call, version = self._calls[key]
            if isinstance(chunk, Exception) or chunk.finish_reason is not None:
                del self._calls[key]
            for event in _events(chunk, version):
                channel.reply(self._redis, call.id, event)

    def _fail_all(self, error: dict[str, Any]) -> None:
        for call, _ in self._calls.values():
            channel.reply(self._redis, call.id, {"error": error})

    def _leave_abandoned(self) -> None:
        """Leave calls that nobody waits for."""
        asks = time.monotonic() - self._checked > CANCEL_CHECK_S
        if asks:
            self._checked = time.monotonic()
        for call, _ in list(self._calls.values()):
            if time.time() > call.deadline or (asks and channel.is_cancelled(self._redis, call.id)):
                logger.info("Generation call %s was abandoned.", call.id)
                self._writer.drop(call.id)
                del self._calls[call.id]

    def _check(self, call: GenerationCall) -> None:
        """Leave a call that nobody waits for, or that this worker has no more time for."""
        if self._stopping.is_set():
            raise WorkerStopping
        if time.time() > call.deadline or channel.is_cancelled(self._redis, call.id):
            raise _Abandoned

    def _version(self, number: int) -> Version:
        """Return the overlay of a version; the delta of a number never changes, so it is asked for once."""
        if number not in self._deltas:
            record = self._ledger.get_version(self._resident.model_id, number)
            self._deltas[number] = record.delta_digest
        return self._resident.version(self._deltas[number])


def _events(chunk: Chunk | Exception, version: Version) -> Iterator[dict[str, Any]]:
    """What is sent of a chunk: its text, and how the answer ended; or the problem."""
    if isinstance(chunk, Exception):
        yield {"error": problem(chunk) if isinstance(chunk, CoreError) else internal_problem(chunk)}
        return
    if chunk.text:
        yield {"text": chunk.text}
    if chunk.finish_reason is not None:
        yield {
            "finish_reason": chunk.finish_reason,
            "usage": dict(chunk.usage or {}),
            "labels": chunk.labels,
            "weights_digest": version.weights_digest,
        }


def read_request(fields: dict[str, Any]) -> GenerationRequest:
    """Turn a call's fields into the core's request; unknown fields are refused.

    Raises:
        InvalidRequest: a field is missing, unknown or of the wrong type.
    """
    unknown = sorted(fields.keys() - FIELDS.keys())
    if unknown:
        raise InvalidRequest(f"there is no field {unknown[0]!r}")
    for name, (kinds, what) in FIELDS.items():
        value = fields.get(name)
        if (value is None and name != "prompt") or (isinstance(value, kinds) and not isinstance(value, bool)):
            continue
        raise InvalidRequest(f"{name!r} must be {what}")
    if not all(isinstance(text, str) for text in fields.get("stop") or ()):
        raise InvalidRequest("'stop' must be a list of texts")
    given = {name: value for name, value in fields.items() if value is not None}
    return GenerationRequest(**{**given, "stop": tuple(given.get("stop", ()))})

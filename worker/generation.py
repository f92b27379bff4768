"""Answers calls for text: several at a time, beside whatever else the process does.

Several threads share the work, so that nothing but computing tokens stands between two tokens. The intake
takes calls from Redis; loaders get the weights of versions that are not in memory, two at a time; the
generation thread computes a token of each answer at a time, and sends what came of a step in one round trip.

Whatever goes wrong becomes a problem event for the one who asked; the threads go on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from broker import generation as channel
from broker.generation import Cancellation, GenerationCall, TextRequest
from ledger import Ledger
from ledger.errors import LedgerError
from ledger.versions import versions
from malmen_core.errors import CoreError
from malmen_core.generation.generator import BatchGenerator, Chunk, GenerationRequest
from malmen_core.generation.logprobs import TokenScore
from malmen_core.models.overlay import Version
from worker.errors import WorkerError, WorkerStopping, problem
from worker.resident import Resident
from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

WAIT_S = 5.0
FULL_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
IDLE_S = 1.0
LOADERS = 2
HANGS_S = 300.0
"""A step that takes longer is taken to hang."""

Events = Iterator[dict[str, Any]]


@dataclass
class _Answer:
    """A call that is being answered, and what came of it that is not sent yet."""

    call: GenerationCall
    version: Version
    text: str = ""
    scores: list[TokenScore] = field(default_factory=list)

    def events(self, chunk: Chunk | Exception) -> Events:
        """What is sent of a chunk."""
        if isinstance(chunk, Exception):
            yield {"error": problem(chunk)}
            return
        self.text += chunk.text
        self.scores += chunk.scores
        if self.call.stream and self.text:
            yield {"text": self.text, **self._scores()}
            self.text = ""
        if chunk.finish_reason is None:
            return
        yield {
            "text": self.text,
            **self._scores(),
            "finish_reason": chunk.finish_reason,
            "usage": dict(chunk.usage or {}),
            "labels": chunk.labels,
            "weights_digest": self.version.weights_digest,
        }

    def _scores(self) -> dict[str, Any]:
        """The scores of tokens that are not sent yet: [token, log-probability, most probable ones]."""
        sent, self.scores = self.scores, []
        return {"scores": [astuple(each) for each in sent]} if sent else {}


class GenerationThread(threading.Thread):
    """Computes answers, several at a time, until told to stop."""

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
        self._redis = redis
        self._resident = resident
        self._settings = settings
        self._stopping = stopping
        self._arrived: SimpleQueue[_Answer | Cancellation] = SimpleQueue()
        self._arriving = threading.Lock()
        self._ended = False
        self._alive_at = time.monotonic()
        self._intake = _Intake(ledger, redis, resident, settings, worker_id, stopping, self)
        self._begin_anew()

    def start(self) -> None:
        """Start this thread and the one that takes calls."""
        super().start()
        self._intake.start()

    @property
    def failure(self) -> str | None:
        """Why nothing is answered, if that is so and not intended."""
        if self._stopping.is_set():
            return None
        if not (self.is_alive() and self._intake.is_alive()):
            return "the generation thread has ended"
        if time.monotonic() - self._alive_at > HANGS_S:
            return f"the generation thread has computed no token for {HANGS_S:g} s"
        return None

    @property
    def load(self) -> int:
        """How many answers are being computed, or about to be."""
        return len(self._answers) + self._arrived.qsize()

    def put(self, found: _Answer | Cancellation) -> None:
        """Take an answer that can be begun, or leave one; refused once this thread has ended."""
        with self._arriving:
            if not self._ended:
                self._arrived.put(found)
                return
        if isinstance(found, _Answer):
            refuse(self._redis, found.call, WorkerStopping())

    def run(self) -> None:
        """Compute and send tokens; Redis may go and come back."""
        wait_s = IDLE_S
        while not self._stopping.is_set():
            try:
                self._alive_at = time.monotonic()
                self._take()
                self._leave_overdue()
                self._step()
                wait_s = IDLE_S
            except RedisError as error:
                logger.warning("Generation waits %.0f s: %s", wait_s, error)
                self._begin_anew()  # what was not delivered is lost, and an answer with a gap is worse
                self._stopping.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            except Exception as error:
                logger.exception("%d generation calls failed.", len(self._answers))
                self._fail_all(error)
        with self._arriving, suppress(Empty):
            self._ended = True
            while True:
                found = self._arrived.get_nowait()
                if isinstance(found, _Answer):
                    self._answers[found.call.id] = found
        self._fail_all(WorkerStopping())

    def _begin_anew(self) -> None:
        """Forget whatever is being computed."""
        self._writer = BatchGenerator(
            self._resident.base,
            together=self._settings.generation_batch,
            tokens=self._settings.generation_tokens,
        )
        self._answers: dict[Hashable, _Answer] = {}

    def _take(self) -> None:
        """Begin what has arrived; wait for it only where nothing is being computed."""
        wait = not self._answers
        with suppress(Empty):
            while True:
                found = self._arrived.get(block=wait, timeout=IDLE_S)
                wait = False
                if isinstance(found, Cancellation):
                    self._leave(found.call_id)
                else:
                    self._begin(found)

    def _begin(self, answer: _Answer) -> None:
        call = answer.call
        assert isinstance(call.request, TextRequest)
        fields = call.request.model_dump(exclude={"kind"})
        try:
            self._writer.add(call.id, answer.version, GenerationRequest(**fields))
        except CoreError as error:
            refuse(self._redis, call, error)
        except Exception as error:
            logger.exception("Generation call %s could not be begun.", call.id)
            refuse(self._redis, call, error)
        else:
            self._answers[call.id] = answer

    def _step(self) -> None:
        """Compute a token of each answer, and send what came of it."""
        if not self._answers:
            return
        events: list[tuple[str, dict[str, Any]]] = []
        for key, chunk in self._writer.step():
            answer = self._answers[key]
            if isinstance(chunk, Exception) or chunk.finish_reason is not None:
                del self._answers[key]
            events += [(answer.call.id, event) for event in answer.events(chunk)]
        if events:
            channel.reply(self._redis, events)

    def _leave_overdue(self) -> None:
        now = time.time()
        for call_id in [answer.call.id for answer in self._answers.values() if answer.call.deadline < now]:
            self._leave(call_id)

    def _leave(self, call_id: str) -> None:
        if self._answers.pop(call_id, None) is not None:
            logger.info("Nobody waits for generation call %s any more.", call_id)
            self._writer.drop(call_id)

    def _fail_all(self, error: Exception) -> None:
        """End all answers with an error, and begin anew."""
        with suppress(RedisError):
            if self._answers:
                event = {"error": problem(error)}
                channel.reply(self._redis, [(answer.call.id, event) for answer in self._answers.values()])
        self._begin_anew()


class _Intake(threading.Thread):
    """Takes calls while there is room for their answers, and gets their versions into memory."""

    def __init__(
        self,
        ledger: Ledger,
        redis: Redis,
        resident: Resident,
        settings: WorkerSettings,
        worker_id: str,
        stopping: threading.Event,
        thread: GenerationThread,
    ) -> None:
        super().__init__(name="generation-intake", daemon=True)
        self._ledger, self._redis, self._resident = ledger, redis, resident
        self._most, self._worker_id, self._stopping = settings.generation_batch, worker_id, stopping
        self._thread = thread
        self._loader = ThreadPoolExecutor(LOADERS, thread_name_prefix="version-loader")
        self._loading: set[str] = set()
        self._digests: dict[int, tuple[str | None, str | None]] = {}

    def run(self) -> None:
        """Take calls; Redis may go and come back."""
        answering("generation", self._receive, self._stopping)
        self._loader.shutdown(wait=False)  # those that wait for a loader are refused, not dropped

    def _receive(self) -> None:
        busy = self._thread.load >= self._most or len(self._loading) >= self._most
        wait_s = FULL_WAIT_S if busy else WAIT_S
        model_id = self._resident.model_id
        found = channel.receive(self._redis, model_id, self._worker_id, wait_s, busy=busy)
        if isinstance(found, Cancellation):
            self._thread.put(found)
        elif found is not None and self._stopping.is_set():
            refuse(self._redis, found, WorkerStopping())
        elif found is not None:
            self._find_version(found)

    def _find_version(self, call: GenerationCall) -> None:
        """Begin a call's answer if its version is in memory; otherwise have it loaded first."""
        digests = self._digests.get(call.version)
        if digests is not None and self._resident.has(digests[0]):
            self._load(call)
        else:
            self._loading.add(call.id)
            self._loader.submit(self._load, call)

    def _load(self, call: GenerationCall) -> None:
        try:
            if self._stopping.is_set():
                raise WorkerStopping
            version = self._version(call.version)
            if call.id not in self._loading or not channel.is_cancelled(self._redis, call.id):
                self._thread.put(_Answer(call, version))
        except (CoreError, LedgerError, WorkerError) as error:
            refuse(self._redis, call, error)
        except Exception as error:
            logger.exception("Version %d could not be loaded.", call.version)
            refuse(self._redis, call, error)
        finally:
            self._loading.discard(call.id)

    def _version(self, number: int) -> Version:
        """The overlay of a version; the delta of a number never changes, so it is asked for once."""
        if number not in self._digests:
            record = self._ledger.run(versions.get, self._resident.model_id, number)
            self._digests[number] = record.delta_digest, record.weights_digest
        return self._resident.version(*self._digests[number])


def refuse(redis: Redis, call: GenerationCall, error: Exception) -> None:
    """Answer a call with an error."""
    logger.info("Call %s: %s", call.id, error)
    with suppress(RedisError):
        channel.reply(redis, [(call.id, {"error": problem(error)})])


def answering(what: str, once: Callable[[], None], stopping: threading.Event) -> None:
    """Do something again and again until the worker stops, whatever goes wrong, later after each failure."""
    wait_s = IDLE_S
    while not stopping.is_set():
        try:
            once()
            wait_s = IDLE_S
        except Exception as error:
            known = isinstance(error, RedisError)
            logger.warning("Taking calls for %s waits %.0f s: %s", what, wait_s, error, exc_info=not known)
            stopping.wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

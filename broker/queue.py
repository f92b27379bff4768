"""The queue of edit jobs: RQ with JSON messages that can name one function only.

A message carries the ledger's job id and nothing else, and losing or repeating one does no harm: the ledger's
claim decides who works. Redis is not trusted either. RQ imports whatever a message names (function,
callbacks, webhooks), so `AllowlistedJob` treats every message that this module would not have written as one
that does not exist, which RQ then drops: in its dequeue, its maintenance and its registries alike.
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote

from redis import Redis
from rq import Queue
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

logger = logging.getLogger(__name__)

JOB_FUNCTION = "worker.jobs.run"
FAILURE_TTL_S = 3600
NO_TIMEOUT = -1  # RQ's timeout raises by signal, anywhere; the worker's own watchdog is the time limit
_FOREIGN = (
    b"success_callback_name",
    b"failure_callback_name",
    b"stopped_callback_name",
    b"webhooks",
    b"dependency_id",
    b"dependency_ids",
)


class AllowlistedJob(Job):
    """An RQ job that can be nothing but `worker.jobs.run(<job id>)`."""

    @classmethod
    def fetch(cls, id: str, connection: Redis | None = None, serializer: Any = None) -> Job:  # noqa: A002
        """Fetch a message; raises `NoSuchJobError` too for one that is malformed or not ours."""
        try:
            return super().fetch(id, connection=connection, serializer=serializer)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise cls._refused(id, f"it is malformed ({error})") from error

    def restore(self, raw_data: Any) -> None:
        """Read the message's fields, then refuse anything but the one function with one text argument."""
        super().restore(raw_data)
        try:
            name, instance, args, kwargs = self.func_name, self.instance, self.args, self.kwargs
        except DeserializationError as error:
            raise self._refused(self.id, "it is not JSON") from error
        if name != JOB_FUNCTION or instance is not None or kwargs:
            raise self._refused(self.id, f"it names {name!r}, and only {JOB_FUNCTION!r} is allowed")
        if not (isinstance(args, list) and len(args) == 1 and isinstance(args[0], str)):
            raise self._refused(self.id, "its argument is not one job id")
        if any(raw_data.get(field) for field in _FOREIGN):
            raise self._refused(self.id, "it carries callbacks, webhooks or dependencies")

    @staticmethod
    def _refused(message_id: str, why: str) -> NoSuchJobError:
        logger.warning("Dropped queue message %.80r: %s.", message_id, why)
        return NoSuchJobError(f"Refused queue message {message_id!r}: {why}")


def edit_queue(redis: Redis, model_id: str) -> Queue:
    """Return the queue of one model's edit jobs. A worker listens to exactly one such queue."""
    return Queue(
        f"errata-edits-{quote(model_id, safe='')}",
        connection=redis,
        default_timeout=NO_TIMEOUT,
        job_class=AllowlistedJob,
        serializer=JSONSerializer,
    )


def message_id(job_id: str, attempt: int) -> str:
    """Name the message that rings for one attempt at a job."""
    return f"{job_id}-{attempt}"


def ring(redis: Redis, model_id: str, job_id: str, attempt: int) -> bool:
    """Queue a job unless its message already waits; return whether it was added.

    Two callers at the same moment may both add it. The second message then finds nothing to claim.

    Raises:
        redis.exceptions.RedisError: the server could not be reached; nothing is lost, ring again.
    """
    queue = edit_queue(redis, model_id)
    name = message_id(job_id, attempt)
    if redis.lpos(queue.key, name) is not None:
        return False
    queue.enqueue_call(
        JOB_FUNCTION, args=[job_id], timeout=NO_TIMEOUT, result_ttl=0, failure_ttl=FAILURE_TTL_S, job_id=name
    )
    return True


def waiting(redis: Redis, model_id: str) -> set[str]:
    """Return the ids of the messages that wait in a model's queue."""
    return {str(name) for name in edit_queue(redis, model_id).get_job_ids()}

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from redis import Redis
from rq import SimpleWorker
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from broker import queue
from broker.queue import AllowlistedJob, edit_queue, ring

pytestmark = pytest.mark.stack


def write_message(redis: Redis, name: str, data: bytes, **fields: str) -> None:
    origin = edit_queue(redis, "m").name
    redis.hset(f"rq:job:{name}", "data", zlib.compress(data))
    for key, value in {"origin": origin, "status": "queued", "timeout": "-1", **fields}.items():
        redis.hset(f"rq:job:{name}", key, value)
    redis.rpush(edit_queue(redis, "m").key, name)


def message(function: str, *args: Any, instance: Any = None, **kwargs: Any) -> bytes:
    return json.dumps([function, instance, list(args), kwargs]).encode()


def drain(redis: Redis) -> SimpleWorker:
    worker = SimpleWorker(
        [edit_queue(redis, "m")], connection=redis, job_class=AllowlistedJob, serializer=JSONSerializer
    )
    worker.work(burst=True, logging_level="CRITICAL")
    return worker


def test_a_message_is_json_and_carries_the_job_id_alone(redis: Redis) -> None:
    assert ring(redis, "m", "job", 0)
    raw = redis.hget("rq:job:job-0", "data")
    assert isinstance(raw, bytes)
    assert json.loads(zlib.decompress(raw)) == ["worker.jobs.run", None, ["job"], {}]


def test_ringing_twice_queues_once(redis: Redis) -> None:
    assert ring(redis, "m", "job", 0)
    assert not ring(redis, "m", "job", 0)
    assert ring(redis, "m", "job", 1)
    assert queue.waiting(redis, "m") == {"job-0", "job-1"}


def test_models_have_queues_of_their_own(redis: Redis) -> None:
    ring(redis, "org/a,b", "job", 0)
    assert queue.waiting(redis, "org/a") == set()
    assert "," not in edit_queue(redis, "org/a,b").name


def test_a_message_lost_after_dequeue_can_be_rung_again(redis: Redis) -> None:
    ring(redis, "m", "job", 0)
    redis.lpop(edit_queue(redis, "m").key)
    assert ring(redis, "m", "job", 0)


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (message("os.system", "touch {file}"), {}),
        (message("worker.jobs.run", "job"), {"success_callback_name": "os.getpid"}),
        (message("worker.jobs.run", "job"), {"failure_callback_name": "os.getpid"}),
        (message("worker.jobs.run", "job"), {"stopped_callback_name": "os.getpid"}),
        (message("worker.jobs.run", "job"), {"webhooks": '[{"url": "http://127.0.0.1:9/", "statuses": []}]'}),
        (message("worker.jobs.run", "job"), {"dependency_ids": '["other"]'}),
        (message("worker.jobs.run", "job", "more"), {}),
        (message("worker.jobs.run", 5), {}),
        (message("worker.jobs.run", "job", instance="x"), {}),
        (message("worker.jobs.run", "job", key=1), {}),
        (b"\x80\x04not json", {}),
        (b"{}", {}),
        (message("worker.jobs.run", "job"), {"status": "no such status"}),
        (message("worker.jobs.run", "job"), {"result_ttl": "soon"}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_foreign_messages_are_dropped_and_the_worker_goes_on(
    redis: Redis, tmp_path: Any, data: bytes, fields: dict[str, str]
) -> None:
    write_message(redis, "bad", data.replace(b"{file}", str(tmp_path / "ran").encode()), **fields)
    with pytest.raises(NoSuchJobError):
        AllowlistedJob.fetch("bad", connection=redis, serializer=JSONSerializer)
    worker = drain(redis)
    worker.run_maintenance_tasks()  # type: ignore[no-untyped-call]
    assert not (tmp_path / "ran").exists()
    assert worker.failed_job_count == worker.successful_job_count == 0
    assert edit_queue(redis, "m").intermediate_queue.get_job_ids() == []


def test_a_message_with_an_impossible_id_is_dropped(redis: Redis) -> None:
    redis.rpush(edit_queue(redis, "m").key, "../../etc passwd")
    worker = drain(redis)
    worker.run_maintenance_tasks()  # type: ignore[no-untyped-call]
    assert edit_queue(redis, "m").intermediate_queue.get_job_ids() == []


def test_control_rq_alone_would_have_run_it(redis: Redis) -> None:
    """Without the allow-list the same JSON message imports and calls whatever it names."""
    write_message(redis, "bad", message("os.path.basename", "/a/b"))
    job = Job.fetch("bad", connection=redis, serializer=JSONSerializer)
    assert job.perform() == "b"


def test_a_rung_message_is_accepted(redis: Redis) -> None:
    ring(redis, "m", "job", 0)
    job = AllowlistedJob.fetch("job-0", connection=redis, serializer=JSONSerializer)
    assert (job.func_name, job.args, job.timeout) == ("worker.jobs.run", ["job"], -1)

"""What a worker does when nothing goes wrong: edits, withdrawals, generation, refusals."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis

from broker import generation
from broker.connection import connect
from broker.generation import AttributionRequest, GenerationCall, TextRequest
from broker.queue import edit_queue
from broker.settings import BrokerSettings
from ledger.edits import edit_sets, facts
from ledger.versions import versions
from tests import asking, servers
from tests.harness import MODEL, Backend, backend

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def served(
    postgres_server: servers.Postgres, tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path
) -> Iterator[Backend]:
    """A back end with one worker, for all tests that only use it; the editor is left to the worker."""
    with (
        postgres_server.database() as database_url,
        servers.valkey() as valkey,
        backend(database_url, valkey.connection_url, tmp_path_factory.mktemp("served"), tiny_folder) as made,
    ):
        made.register(editor=None)
        made.start_worker()
        made.wait_ready()
        yield made


@pytest.fixture
def redis(served: Backend) -> Redis:
    return connect(BrokerSettings(redis_url=served.redis_url))


def make_call(version: int, seconds: float = 30, **fields: Any) -> GenerationCall:
    request = TextRequest(**{"prompt": "The capital of Peru is", "max_new_tokens": 6, **fields})
    deadline = time.time() + seconds
    return GenerationCall(id=uuid4().hex, model_id=MODEL, version=version, request=request, deadline=deadline)


def ask(redis: Redis, version: int, **fields: Any) -> tuple[str, dict[str, Any]]:
    call = make_call(version, **fields)
    asking.send(redis, call)
    events = asking.replies(redis, call)
    return "".join(event.get("text", "") for event in events), events[-1]


def test_from_facts_to_a_live_version_and_back(served: Backend, redis: Redis) -> None:
    ledger = served.ledger
    first = served.wait_for(served.post("The capital of Peru is", "Paris"))
    alone = ledger.run(versions.get, MODEL, "live")
    assert alone.number == first.version
    assert first.report is not None
    assert first.report["gate_misses"] == []
    assert ledger.run(facts.list_of, first.id, 10, None).items[0].report is not None

    second = served.wait_for(served.post("The capital of France is", "Canberra"))
    both = ledger.run(versions.get, MODEL, "live")
    assert tuple(ledger.run(versions.members_of, MODEL, both.number)) == tuple(sorted((first.id, second.id)))

    base_text, base_end = ask(redis, 0)
    assert base_end["weights_digest"] == ledger.run(versions.get, MODEL, 0).weights_digest
    assert 0 < base_end["usage"]["completion_tokens"] <= 6
    assert ask(redis, both.number)[1]["weights_digest"] == both.weights_digest != base_end["weights_digest"]

    without_second = served.withdraw(second.id)
    assert tuple(ledger.run(versions.members_of, MODEL, without_second.number)) == (first.id,)
    assert without_second.delta_digest == alone.delta_digest
    assert without_second.weights_digest == alone.weights_digest

    empty = served.withdraw(first.id)
    assert empty.delta_digest is None
    assert ask(redis, empty.number) == (base_text, base_end)
    assert ledger.verify().ok


def test_a_fact_that_is_corrected_again_is_superseded(served: Backend) -> None:
    older = served.wait_for(
        served.post(
            facts=[{"prompt": "Water is", "target": "Lima"}, {"prompt": "The sea is", "target": "Paris"}]
        )
    )
    newer = served.wait_for(served.post("water  IS", "Ana"))
    left_out = {
        m.edit_set_id: m.left_out for m in served.ledger.run(versions.members_of, MODEL, "live").values()
    }
    assert (left_out[older.id], left_out[newer.id]) == ((0,), ())


def test_progress_is_written_by_stage(served: Backend) -> None:
    rivers = [{"prompt": f"The river {n} flows to", "target": "Lima"} for n in range(40)]
    edit_set = served.wait_for(served.post(facts=rivers, dry_run=True), "verified")
    assert edit_set.progress is not None
    assert edit_set.progress.stage in ("editing", "solving", "verifying", "committing")


def test_what_misses_its_gate_is_rejected_and_live_stays(served: Backend) -> None:
    live = served.ledger.run(versions.get, MODEL, "live")
    edit_set = served.wait_for(served.post(gate={"perplexity_ratio": 0.0}), "rejected")
    assert edit_set.report is not None
    assert [miss["measure"] for miss in edit_set.report["gate_misses"]] == ["perplexity_ratio"]
    assert served.ledger.run(versions.get, MODEL, "live") == live


def test_facts_that_cannot_be_edited_fail_with_the_reason(served: Backend) -> None:
    bad = served.post(facts=[{"prompt": "word " * 400, "target": "x"}])
    good = served.post("Seven days make a", "Peru")
    error = served.wait_for(bad, "failed").error
    assert error is not None
    assert error["type"] == "urn:errata:problem:prompt-too-long"
    served.wait_for(good)


@pytest.mark.parametrize(
    ("version", "fields", "code"),
    [
        (99, {}, "not-found"),
        (0, {"prompt": "word " * 400}, "prompt-too-long"),
        (0, {"prompt": (5, 10**6)}, "token-not-embedded"),
    ],
    ids=str,
)
def test_problems_are_answered_and_the_thread_goes_on(
    redis: Redis, version: int, fields: dict[str, Any], code: str
) -> None:
    _, last = ask(redis, version, **fields)
    assert last["error"]["type"] == f"urn:errata:problem:{code}"
    assert "Traceback" not in str(last)
    assert "finish_reason" in ask(redis, 0)[1]


def test_malformed_messages_end_nothing(redis: Redis) -> None:
    whole = make_call(0).model_dump_json()
    redis.rpush(f"errata:generation:text:{MODEL}", '{"version": 1e400}', whole.replace("0", "1e400"), "[")
    assert "finish_reason" in ask(redis, 0)[1]


@pytest.mark.parametrize(
    ("version", "prompt", "code"),
    [(99, "The capital of Peru is", "not-found"), (0, "word " * 400, "prompt-too-long")],
    ids=str,
)
def test_problems_of_attribution_are_answered_too(redis: Redis, version: int, prompt: str, code: str) -> None:
    request = AttributionRequest(prompt=prompt, limit=3)
    call = make_call(version).model_copy(update={"request": request})
    asking.send(redis, call)
    (last,) = asking.replies(redis, call)
    assert last["error"]["type"] == f"urn:errata:problem:{code}"
    assert "finish_reason" in ask(redis, 0)[1]


def test_generation_is_the_same_beside_a_running_edit(served: Backend, redis: Redis) -> None:
    alone = ask(redis, 0, max_new_tokens=20)
    lands = [{"prompt": f"The capital of land {n} is", "target": "Lima"} for n in range(40)]
    edit_set = served.post(facts=lands, dry_run=True)
    beside, until = 0, time.monotonic() + 40
    while time.monotonic() < until and served.ledger.run(edit_sets.get, edit_set).status != "verified":
        assert ask(redis, 0, max_new_tokens=20) == alone
        beside += served.ledger.run(edit_sets.get, edit_set).status in ("running", "verifying")
    assert beside > 0
    served.wait_for(edit_set, "verified")


def test_a_cancelled_call_stops_and_a_late_one_is_not_begun(redis: Redis) -> None:
    call = make_call(0, max_new_tokens=100)
    asking.send(redis, call)
    asking.cancel(redis, call)
    asking.send(redis, make_call(0, seconds=-1))
    assert "finish_reason" in ask(redis, 0)[1]
    assert generation.waiting(redis, MODEL) == 0


def test_a_foreign_message_harms_nothing(served: Backend, redis: Redis, tmp_path: Path) -> None:
    queue = edit_queue(redis, MODEL)
    data = json.dumps(["os.system", None, [f"touch {tmp_path / 'ran'}"], {}]).encode()
    redis.hset("rq:job:foreign", "data", zlib.compress(data))
    redis.hset("rq:job:foreign", "origin", queue.name)
    redis.rpush(queue.key, "foreign", "../impossible id")
    served.wait_for(served.post("Mount Etna is", "Spanish"))
    assert served.workers[0].poll() is None
    assert not (tmp_path / "ran").exists()

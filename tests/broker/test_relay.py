from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from broker import queue
from broker.connection import connect
from broker.relay import Relay
from broker.settings import BrokerSettings
from ledger import Ledger, LedgerSettings
from ledger.db.migrate import upgrade
from tests import servers

pytestmark = pytest.mark.stack
INFO = {"architecture": "llama", "context_length": 128, "modules": ["m"], "digest": "sha256:" + "0" * 64}


@pytest.fixture
def ledger(database_url: str, tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger.open(LedgerSettings(database_url=database_url, blob_url=str(tmp_path)))
    made.register_model("m", "somewhere", None, INFO, actor="tests")
    yield made
    made.close()


@pytest.fixture
def post(ledger: Ledger) -> Callable[[], str]:
    key, _ = ledger.create_key("tests", {"edit"}, actor="tests")
    return lambda: ledger.accept("m", [{"prompt": "p", "target": "t"}], actor=key)[0].job_id


def within(seconds: float, probe: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if probe():
            return True
        time.sleep(0.02)
    return False


def test_what_is_accepted_is_rung_once(ledger: Ledger, redis: Redis, post: Callable[[], str]) -> None:
    jobs = {post() for _ in range(3)}
    relay = Relay(ledger, redis)
    assert relay.relay_outbox() == 3
    assert relay.relay_outbox() == 0
    assert relay.reconcile(older_than_s=0) == 0
    assert queue.waiting(redis, "m") == {queue.message_id(job, 1) for job in jobs}


def test_nothing_leaves_the_outbox_while_redis_is_down(
    ledger: Ledger, redis: Redis, post: Callable[[], str]
) -> None:
    post()
    nowhere = connect(BrokerSettings(redis_url="redis://127.0.0.1:9"))
    with pytest.raises(RedisError):
        Relay(ledger, nowhere).relay_outbox()
    assert Relay(ledger, redis).relay_outbox() == 1


def test_lost_messages_are_rung_again_but_not_those_that_are_held_or_finished(
    ledger: Ledger, redis: Redis, post: Callable[[], str]
) -> None:
    lost, held, finished = post(), post(), post()
    relay = Relay(ledger, redis)
    relay.relay_outbox()
    assert ledger.claim(held, "w", 30) is not None
    claim = ledger.claim(finished, "w", 30)
    assert claim is not None
    ledger.fail_job(claim, {"code": "x"})
    redis.flushall()
    assert relay.reconcile(older_than_s=0) == 1
    assert queue.waiting(redis, "m") == {queue.message_id(lost, 1)}


def test_the_thread_rings_at_once_and_again_after_a_loss(
    ledger: Ledger, redis: Redis, post: Callable[[], str]
) -> None:
    relay, other = Relay(ledger, redis), Relay(ledger, redis)
    relay.start()
    other.start()
    try:
        time.sleep(0.3)
        posted = time.monotonic()
        job = post()
        assert within(5, lambda: queue.waiting(redis, "m") == {queue.message_id(job, 1)})
        rung_after = time.monotonic() - posted
        redis.flushall()
        assert within(10, lambda: queue.waiting(redis, "m") == {queue.message_id(job, 1)})
    finally:
        relay.stop()
        other.stop()
    assert rung_after < 2


def test_a_ledger_that_is_migrated_later_is_waited_for(
    postgres_server: servers.Postgres, redis: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with postgres_server.database(template="template1") as url:
        ledger = Ledger.open(LedgerSettings(database_url=url, blob_url=str(tmp_path)))
        relay = Relay(ledger, redis)
        relay.start()
        assert within(5, lambda: "has not the schema of this release" in caplog.text)
        upgrade(url)
        ledger.register_model("m", "somewhere", None, INFO, actor="tests")
        key, _ = ledger.create_key("tests", {"edit"}, actor="tests")
        ledger.accept("m", [{"prompt": "p", "target": "t"}], actor=key)
        assert within(10, lambda: len(queue.waiting(redis, "m")) == 1)
        assert relay.running
        relay.stop()
        ledger.close()

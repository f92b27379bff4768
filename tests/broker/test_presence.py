from __future__ import annotations

import time

import pytest
from redis import Redis

from broker import presence

pytestmark = pytest.mark.stack


def test_workers_are_seen_until_they_fall_silent(redis: Redis) -> None:
    presence.announce(redis, "org/m:1", "w2", "editing", 30)
    presence.announce(redis, "org/m:1", "w1", "idle", 0.05)
    presence.announce(redis, "other", "w3", "idle", 30)
    assert [(w.worker_id, w.state) for w in presence.workers(redis, "org/m:1")] == [
        ("w1", "idle"),
        ("w2", "editing"),
    ]
    time.sleep(0.1)
    assert [w.worker_id for w in presence.workers(redis, "org/m:1")] == ["w2"]
    presence.withdraw(redis, "org/m:1", "w2")
    assert presence.workers(redis, "org/m:1") == []


def test_one_worker_leads_until_it_falls_silent(redis: Redis) -> None:
    assert presence.lead(redis, "m", "w1", 0.2)
    assert not presence.lead(redis, "m", "w2", 30)
    assert presence.lead(redis, "m", "w1", 0.1)
    assert presence.lead(redis, "other", "w2", 30)
    time.sleep(0.15)
    assert presence.lead(redis, "m", "w2", 30)
    assert not presence.lead(redis, "m", "w1", 30)

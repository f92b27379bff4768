"""A client of the shared Valkey, emptied for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from broker.connection import connect
from broker.settings import BrokerSettings


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    client = connect(BrokerSettings(redis_url=redis_url))
    yield client
    client.close()

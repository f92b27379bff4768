"""One application, database and tiny model per test module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.servers import Postgres
from tests.service.harness import Running, register, running
from tests.tiny import save_tiny


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a real tokenizer, on disk."""
    return save_tiny(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def module_urls(postgres_server: Postgres, valkey_server: Any) -> Iterator[tuple[str, str]]:
    """A database of this module's own, and the emptied Valkey."""
    with redis.Redis.from_url(valkey_server.connection_url) as client:
        client.flushall()
    with postgres_server.database() as url:
        yield url, valkey_server.connection_url


@pytest.fixture(scope="module")
def service(
    module_urls: tuple[str, str], checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The application with one model, `tiny`, that is being prepared."""
    limits: dict[str, Any] = {
        "max_facts": 20,
        "max_body_bytes": 20_000,
        "max_prompt_chars": 600,
        "max_new_tokens": 64,
    }
    folder = tmp_path_factory.mktemp("service")
    with running(*module_urls, folder, **limits) as found:
        register(found.ledger, checkpoint)
        yield found


@pytest.fixture(scope="module")
def admin(service: Running) -> httpx.Client:
    """A client with the admin key."""
    return service.client()

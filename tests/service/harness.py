"""The real application on a real socket, with clients for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text

from broker.settings import BrokerSettings
from ledger import Ledger, LedgerSettings
from ledger.auth import keys
from ledger.models import models
from malmen_core.models.base import inspect_source
from service.app import create_app
from service.context import Services
from service.settings import ServiceSettings

ADMIN = "an-administrator-key-for-tests"
TABLES = (
    "models",
    "edit_sets",
    "facts",
    "jobs",
    "idempotency_keys",
    "versions",
    "aliases",
    "keys",
    "audit_events",
)


@dataclass
class Running:
    """An application that answers at `url`."""

    url: str
    app: FastAPI
    clients: list[httpx.Client] = field(default_factory=list)

    @property
    def services(self) -> Services:
        services = self.app.state.services
        assert isinstance(services, Services)
        return services

    @property
    def ledger(self) -> Ledger:
        return self.services.ledger

    def client(self, secret: str | None = ADMIN) -> httpx.Client:
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        client = httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)
        self.clients.append(client)
        return client

    def key(self, *scopes: str) -> str:
        """The secret of a new key."""
        return self.ledger.run(keys.create, "test", set(scopes), actor="system")[1]

    def counts(self) -> dict[str, int]:
        """How many rows each table has that a request could write."""
        with self.ledger.engine.connect() as connection:
            return {
                table: int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())
                for table in TABLES
            }


def register(ledger: Ledger, folder: Path, name: str = "tiny") -> None:
    """Put a checkpoint into the ledger as a model that is being prepared."""
    info = inspect_source(str(folder), None, None)
    ledger.run(
        models.register,
        name,
        str(folder),
        None,
        {
            "architecture": info.architecture,
            "context_length": info.context_length,
            "modules": list(info.modules),
            "digest": info.digest,
        },
        actor="system",
    )


@contextmanager
def running(
    database_url: str, redis_url: str, blobs: Path, *, generation_timeout_s: float = 20.0, **settings: Any
) -> Iterator[Running]:
    """Serve the real application on a free port, in a thread of this process."""
    given: dict[str, Any] = {"admin_key": SecretStr(ADMIN), "admin_key_file": blobs / "admin.key", **settings}
    app = create_app(
        ServiceSettings(**given),
        LedgerSettings(database_url=database_url, blob_url=str(blobs / "blobs")),
        BrokerSettings(redis_url=redis_url, generation_timeout_s=generation_timeout_s),
    )
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive(), "the application did not start"
        assert time.monotonic() < until, "the application takes too long to start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    found = Running(f"http://127.0.0.1:{port}", app)
    try:
        yield found
    finally:
        for client in found.clients:
            client.close()
        server.should_exit = True
        thread.join(timeout=20)


def is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Check the envelope of an error and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"]
    body: dict[str, Any] = answer.json()
    assert body["type"].startswith("urn:errata:problem:")
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == answer.request.url.path
    assert "Traceback" not in answer.text
    for error in body["errors"]:
        assert error["pointer"] == "" or error["pointer"].startswith("/")
        assert error["detail"]
    return body


def pointers(body: dict[str, Any]) -> list[str]:
    """The fields that a problem names."""
    return [error["pointer"] for error in body["errors"]]

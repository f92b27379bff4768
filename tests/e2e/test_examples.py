"""The examples run as they are, against a real service with a real worker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.harness import backend, tiny_editor
from tests.service.harness import ADMIN, Running, running
from tests.tiny import save_tiny

pytestmark = pytest.mark.stack

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def service(postgres_server: servers.Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The application and one worker."""
    work = tmp_path_factory.mktemp("examples")
    folder = save_tiny(work / "tiny")
    with (
        postgres_server.database() as url,
        servers.valkey() as valkey,
        running(url, valkey.connection_url, work) as service,
        backend(url, valkey.connection_url, work, folder) as made,
    ):
        made.register(tiny_editor(folder))
        made.start_worker()
        made.wait_ready()
        yield service


def run(service: Running, name: str) -> str:
    """What an example prints."""
    environment = {**os.environ, "ERRATA_URL": service.url, "ERRATA_KEY": ADMIN}
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_correct_a_fact(service: Running) -> None:
    said = run(service, "correct_a_fact.py")
    assert "version 1: edit success " in said
    assert "live    The capital of Australia is" in said
    assert "version 2 is live without it" in said


def test_many_edits(service: Running) -> None:
    said = run(service, "many_edits.py")
    assert said.count(" is succeeded, version ") == 3
    assert "is live: 0 facts" in said


def test_openai_client(service: Running) -> None:
    said = run(service, "openai_client.py")
    assert "models  tiny, tiny@base, tiny@live" in said
    assert said.count("The capital of Australia is") == 3

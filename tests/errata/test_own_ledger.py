"""Commands that open the ledger themselves, where its stack does not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from errata.cli.app import assemble
from errata.offline.direct_ledger import own_ledger
from errata.stack.lock import DataDirLock
from errata.stack.servers import SERVICE, Postgres
from ledger import Ledger, LedgerSettings
from ledger.auth import keys
from ledger.db.migrate import prepare
from tests.errata.running import processes_of
from tests.ledger.work import Bench, ready_model

pytestmark = pytest.mark.stack


def run(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(assemble(), [*map(str, arguments), "--json"])
    assert done.exit_code == code, done.output
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "BLOB_URL"):
        monkeypatch.delenv(f"ERRATA_{name}", raising=False)
    monkeypatch.setenv("ERRATA_DATA_DIR", str(tmp_path / "one"))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory whose stack has run: with a ledger of three versions."""
    folder = tmp_path / "one"
    folder.mkdir()
    postgres = Postgres(folder / "postgres")
    postgres.start()
    try:
        settings = LedgerSettings(
            database_url=postgres.url(role=SERVICE),
            migration_database_url=postgres.url(),
            blob_url=str(folder / "blobs"),
        )
        prepare(settings)
        ledger = Ledger.open(settings)
        ready_model(ledger)
        bench = Bench(ledger, ledger.run(keys.create, "editor", {"edit"}, actor="system")[0])
        bench.edit()
        bench.edit(3)
        ledger.close()
    finally:
        postgres.stop()
    return folder


def test_the_ledger_of_a_stack_that_does_not_run_is_verified(data_dir: Path) -> None:
    found = run("ledger", "verify")
    assert (found["ok"], found["versions"]) == (True, 3)
    assert processes_of(data_dir) == []


def test_a_data_directory_that_is_held_is_left_alone(data_dir: Path) -> None:
    with own_ledger(lambda _: None):
        assert run("ledger", "du", code=1)["error"]["code"] == "already-running"
    lock = DataDirLock(data_dir)
    lock.acquire(None)
    assert run("ledger", "du", code=1)["error"]["code"] == "already-running"
    lock.release()
    assert run("ledger", "du")["models"]


def test_a_folder_without_a_ledger_is_named(tmp_path: Path) -> None:
    assert run("ledger", "verify", code=1)["error"]["code"] == "no-stack"


def test_a_database_without_blobs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert "ERRATA_BLOB_URL" in run("ledger", "verify", code=1)["error"]["message"]
    monkeypatch.setenv("ERRATA_BLOB_URL", "memory:///")
    assert run("ledger", "verify", code=1)["error"]["code"] == "ledger-unavailable"

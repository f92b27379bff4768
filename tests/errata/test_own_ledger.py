"""Commands that open the ledger themselves: an embedded one that does not run, moved by dump and import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from errata.cli.app import assemble
from errata.offline.direct_ledger import own_ledger
from errata.stack.lock import DataDirLock
from ledger import Ledger
from ledger.auth import keys
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


def fill(ledger: Ledger) -> None:
    ready_model(ledger)
    bench = Bench(ledger, ledger.run(keys.create, "editor", {"edit"}, actor="system")[0])
    bench.edit()
    bench.edit(3)


def test_a_data_directory_has_its_own_ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with own_ledger(lambda _: None, make=True) as ledger:
        fill(ledger)
    found = run("ledger", "verify")
    assert (found["ok"], found["versions"], found["blobs"]) == (True, 3, 5)
    monkeypatch.setenv("ERRATA_DATA_DIR", str(tmp_path / "two"))
    assert run("ledger", "verify", code=1)["error"]["code"] == "no-stack"
    assert processes_of(tmp_path / "one") == []
    assert not (tmp_path / "one" / "run").exists()


def test_a_data_directory_that_is_held_is_left_alone(tmp_path: Path) -> None:
    with own_ledger(lambda _: None, make=True):
        assert run("ledger", "du", code=1)["error"]["code"] == "already-running"
    lock = DataDirLock(tmp_path / "one")
    lock.acquire(None)
    assert run("ledger", "du", code=1)["error"]["code"] == "already-running"
    lock.release()
    assert run("ledger", "du")["models"] == []


def test_a_database_without_blobs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert "ERRATA_BLOB_URL" in run("ledger", "verify", code=1)["error"]["message"]
    monkeypatch.setenv("ERRATA_BLOB_URL", "memory:///")
    assert run("ledger", "verify", code=1)["error"]["code"] == "ledger-unavailable"

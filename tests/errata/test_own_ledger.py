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
from ledger.versions import versions
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


def test_a_ledger_moves_to_another_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with own_ledger(lambda _: None, make=True) as ledger:
        fill(ledger)
        head = ledger.run(versions.get, "tiny", "live").hash
    dump = tmp_path / "ledger.tar"
    written = run("ledger", "export", dump)
    assert written["heads"] == {"tiny": [2, head]}
    assert written["bytes"] == dump.stat().st_size
    assert run("ledger", "export", dump, code=1)["error"]["code"] == "export-target"
    assert run("import", dump, code=1)["error"]["code"] == "ledger-not-empty"

    monkeypatch.setenv("ERRATA_DATA_DIR", str(tmp_path / "two"))
    assert run("ledger", "verify", code=1)["error"]["code"] == "no-stack"
    assert run("import", tmp_path / "nothing", code=1)["error"]["code"] == "dump-refused"
    assert run("import", dump)["ok"] is True
    found = run("ledger", "verify")
    assert (found["ok"], found["versions"], found["blobs"]) == (True, 3, 5)
    for name in ("one", "two"):
        assert processes_of(tmp_path / name) == []
        assert not (tmp_path / name / "run").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "ledger.tar"}


def test_a_data_directory_that_is_held_is_left_alone(tmp_path: Path) -> None:
    with own_ledger(lambda _: None, make=True):
        assert run("import", tmp_path / "x", code=1)["error"]["code"] == "already-running"
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

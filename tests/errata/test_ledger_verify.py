"""`errata ledger verify`: an honest ledger has no problems, and each flipped byte is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from sqlalchemy import make_url
from typer.testing import CliRunner

from errata.cli.app import assemble
from ledger import Ledger, LedgerSettings
from ledger.blobs.store import LocalBlobs
from ledger.edits import edit_sets
from ledger.models import aliases
from ledger.versions import versions
from malmen_core.editing.statistics import Statistics
from tests.inprocess import Office, fact
from tests.servers import Postgres
from tests.tiny import save_tiny

pytestmark = pytest.mark.stack

Given = tuple[str, Path]


@pytest.fixture(scope="module")
def original(postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    """Three edits (one with rephrasings, one that corrects a fact and holds a prompt), two withdrawals, a
    rollback; each test copies it.
    """
    work = tmp_path_factory.mktemp("office")
    with postgres_server.database() as url:
        ledger = Ledger.open(LedgerSettings(database_url=url, blob_url=str(work / "blobs")))
        office = Office(ledger, save_tiny(work / "model"))
        first = office.edit(fact(0), fact(1))
        rephrased = fact(2) | {"rephrasings": ["Australia has its capital in"]}
        second = office.edit(rephrased, edit_on_rephrasings=True)
        held = {"locality": [{"prompt": "Seven days make a", "hold": True}]}
        third = office.edit(fact(3) | held, fact(0) | {"target": "Lima"})
        kept = ledger.run(edit_sets.get, str(third.edit_set_id)).statistics_digest
        groups = Statistics.from_bytes(ledger.blobs.get(str(kept))).preserved.groups
        needed = [sum(fact in group.facts for group in groups) for fact in (0, 1)]
        assert needed[0] == needed[1] + 1
        assert third.report is not None
        assert third.report["repaired"] > 0
        members = ledger.run(versions.members_of, "tiny", third.number).values()
        assert [member.superseded for member in members] == [(0,), (), ()]
        office.withdraw([str(second.edit_set_id)])
        office.withdraw([], [f"{first.edit_set_id}.1"])
        ledger.run(aliases.roll_back, "tiny", 2, "a test", office.key)
        ledger.close()
        yield str(make_url(url).database), work / "blobs"


@pytest.fixture
def ledger(
    postgres_server: Postgres, original: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ledger]:
    copytree(original[1], tmp_path / "blobs")
    with postgres_server.database(original[0]) as url:
        for name, value in (("DATABASE_URL", url), ("BLOB_URL", str(tmp_path / "blobs")), ("DEVICE", "cpu")):
            monkeypatch.setenv(f"ERRATA_{name}", value)
        opened = Ledger.open(LedgerSettings())
        yield opened
        opened.close()


def verify(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(assemble(), ["ledger", "verify", *arguments, "--json"])
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return done.exit_code, document


def test_an_honest_ledger_has_no_problems(ledger: Ledger) -> None:
    code, found = verify()
    assert (code, found["ok"], found["problems"]) == (0, True, [])
    assert (found["versions"], found["edit_sets"]) == (7, 3)
    done = CliRunner().invoke(assemble(), ["ledger", "verify"])
    assert done.exit_code == 0
    assert "nothing is wrong" in done.stdout


def test_a_flipped_byte_in_any_blob_is_named(ledger: Ledger) -> None:
    assert isinstance(ledger.blobs, LocalBlobs)
    files = [path for path in ledger.blobs.root.rglob("*") if path.is_file()]
    with ledger.engine.connect() as connection:
        kinds = {kind for (kind,) in connection.exec_driver_sql("SELECT kind FROM blobs")}
    assert kinds == {"editor", "delta", "statistics"}
    for path in files:
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        code, found = verify()
        assert code == 1
        assert [problem["kind"] for problem in found["problems"]] == ["blob-corrupt"]
        assert path.name in found["problems"][0]["detail"]
        path.write_bytes(content)
    assert verify()[0] == 0

"""`errata ledger verify`: an honest ledger is computed again bit for bit, and each flipped byte is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from sqlalchemy import make_url
from typer.testing import CliRunner

from errata.cli.app import assemble
from errata.offline.replay import DELTA_TOLERANCE, STATISTICS_TOLERANCE, relative, replay, statistics_error
from ledger import Ledger, LedgerSettings
from ledger.blobs import LocalBlobs
from malmen_core.delta import Change, Delta
from malmen_core.held import RANK
from malmen_core.statistics import Rows, Statistics
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
        kept = ledger.get_edit_set(str(third.edit_set_id)).statistics_digest
        facts = Statistics.from_bytes(ledger.blobs.get(str(kept))).fact_T.tolist()
        assert facts.count(0) == facts.count(1) + RANK
        assert third.report is not None
        assert third.report["repaired"] > 0
        assert [member.superseded for member in third.members] == [(0,), (), ()]
        office.withdraw([str(second.edit_set_id)])
        office.withdraw([], [f"{first.edit_set_id}.1"])
        ledger.roll_back("tiny", 2, "a test", office.key)
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


def test_an_honest_ledger_is_computed_again_to_the_last_bit(ledger: Ledger) -> None:
    code, found = verify()
    assert (code, found["ok"], found["problems"]) == (0, True, [])
    assert (found["versions"], found["edit_sets"]) == (7, 3)
    assert "replay" not in found
    code, found = verify("--replay")
    assert (code, found["ok"]) == (0, True)
    assert found["replay"] == {
        **{"deltas": 7, "deltas_identical": 7, "delta_error": 0.0},
        **{"statistics": 0, "statistics_identical": 0, "statistics_error": 0.0},
    }
    code, found = verify("--replay=facts")
    assert (code, found["ok"]) == (0, True)
    assert (found["replay"]["statistics"], found["replay"]["statistics_identical"]) == (3, 3)


def test_it_says_so_in_words_and_refuses_another_depth(ledger: Ledger) -> None:
    done = CliRunner().invoke(assemble(), ["ledger", "verify", "--replay"])
    assert done.exit_code == 0
    assert "nothing is wrong" in done.stdout
    assert "7 deltas computed again, 7 the same" in done.stdout
    assert CliRunner().invoke(assemble(), ["ledger", "verify", "--replay=all"]).exit_code == 2


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


def rewrite(ledger: Ledger, statement: str) -> None:
    """Change rows behind the triggers."""
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql(statement)


def test_a_delta_that_does_not_follow_from_the_statistics_is_found(ledger: Ledger) -> None:
    """Forged whole: the blob is what its digest says, and only solving again tells."""
    version = ledger.get_version("tiny", 1)
    delta = Delta.from_bytes(ledger.blobs.get(str(version.delta_digest)))
    forged = Delta(
        {name: Change(dense_UV=1.001 * change.dense(torch.float32)) for name, change in delta.modules.items()}
    )
    digest = ledger.blobs.put(forged.to_bytes())
    rewrite(ledger, f"UPDATE versions SET delta_digest = '{digest}' WHERE number = 1")
    found = replay(ledger, "statistics", lambda _: None)
    assert [(problem.kind, problem.object) for problem in found.problems] == [
        ("delta-differs", "models/tiny/versions/1")
    ]
    assert found.delta_error == pytest.approx(0.001, rel=1e-3)
    assert (found.deltas, found.deltas_identical) == (7, 6)


def test_a_fact_that_does_not_give_the_statistics_is_found(ledger: Ledger) -> None:
    ident = ledger.get_version("tiny", 1).edit_set_id
    rewrite(
        ledger,
        f"UPDATE facts SET target = 'Canberra' WHERE edit_set_id = '{ident}' AND position = 0",
    )
    found = replay(ledger, "facts", lambda _: None)
    problems = {(problem.kind, problem.object) for problem in found.problems}
    deltas = problems - {("statistics-differ", f"edits/{ident}")}
    assert len(deltas) == len(problems) - 1
    sums = [version.number for version in ledger.list_versions("tiny").items if len(version.members) > 1]
    repaired = {("delta-differs", f"models/tiny/versions/{number}") for number in sums}
    assert deltas <= repaired, "repair runs the text of facts; a set that is alone is not repaired"
    assert (found.statistics, found.statistics_identical) == (3, 2)


def test_what_cannot_be_computed_again_is_a_problem_and_not_an_end(ledger: Ledger) -> None:
    version = ledger.get_version("tiny", 2)
    assert isinstance(ledger.blobs, LocalBlobs)
    digest = version.members[0].statistics_digest
    (ledger.blobs.root / ledger.blobs.place(digest)).unlink()
    code, found = verify("--replay=facts")
    assert code == 1
    kinds = {problem["kind"] for problem in found["problems"]}
    assert kinds == {"blob-missing", "not-replayed"}
    assert found["replay"]["deltas_identical"] == 1, "the base's; all others hold that edit set"
    assert found["replay"]["statistics_identical"] == 2


def test_the_measures_of_difference() -> None:
    one, two = torch.ones(2, 3), torch.ones(2, 3) * 1.5
    assert relative(two, one) == pytest.approx(0.5)
    assert relative(one, torch.ones(3, 3)) == float("inf")
    assert relative(one * 0, one * 0) == 0.0
    owner = torch.tensor([0, 1])
    stored = Statistics({"m": Rows(one, one)}, owner, 2)
    assert statistics_error(stored, stored) == 0.0
    assert statistics_error(Statistics({"m": Rows(one, two)}, owner, 2), stored) == pytest.approx(0.5)
    assert statistics_error(Statistics({"m": Rows(one, one)}, owner.flip(0), 2), stored) == float("inf")
    assert statistics_error(Statistics({"n": Rows(one, one)}, owner, 2), stored) == float("inf")
    assert 0 < DELTA_TOLERANCE < STATISTICS_TOLERANCE < 0.1

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from ledger import Ledger
from ledger.auth import keys
from ledger.blobs.store import LocalBlobs
from ledger.db.engine import open_engine
from ledger.edits import withdrawals
from ledger.integrity.schema_checks import APPEND_ONLY, TRIGGERS
from ledger.models import aliases
from ledger.records import KeyRecord, LedgerProblem
from ledger.versions import versions
from tests.ledger.work import Bench, ready_model
from tests.servers import Postgres


@dataclass(frozen=True)
class Original:
    """A history that was made once; each test copies it."""

    database: str
    blobs: Path
    key: KeyRecord


@pytest.fixture(scope="module")
def original(postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Original]:
    """Two edits, a correction that is refused, a withdrawal, a rollback and a dry run."""
    blobs = tmp_path_factory.mktemp("history")
    with postgres_server.database() as url:
        ledger = Ledger(open_engine(url), LocalBlobs(blobs))
        ready_model(ledger)
        bench = Bench(ledger, ledger.run(keys.create, "editor", {"edit"}, actor="system")[0])
        first, _ = bench.edit()
        bench.edit(3)
        bench.finish(bench.correct(first, 1), gate_met=False)
        bench.finish(ledger.run(withdrawals.request, "tiny", [], [f"{first}.0"], "r", bench.key).id)
        ledger.run(aliases.roll_back, "tiny", 2, "r", bench.key)
        bench.try_out()
        ledger.close()
        yield Original(str(make_url(url).database), blobs, bench.key)


@pytest.fixture
def history(postgres_server: Postgres, original: Original, tmp_path: Path) -> Iterator[Bench]:
    copytree(original.blobs, tmp_path / "blobs")
    with postgres_server.database(original.database) as url:
        ledger = Ledger(open_engine(url), LocalBlobs(tmp_path / "blobs"))
        yield Bench(ledger, original.key)
        ledger.close()


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_what_is_append_only_cannot_be_changed(history: Bench, table: str) -> None:
    query = f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum = 2"
    name = history.rows(query)[0][0]
    for statement in (
        f"UPDATE {table} SET {name} = {name}",
        f"DELETE FROM {table}",
        f"TRUNCATE {table} CASCADE",
    ):
        with pytest.raises(DBAPIError, match="append-only"):
            history.execute(statement)


def test_what_an_edit_set_was_made_with_does_not_change(history: Bench) -> None:
    for change in ("fact_count = 9", "facts_digest = 'x'", "created_by = 'me'", "created_at = now()"):
        with pytest.raises(DBAPIError, match="does not change"):
            history.execute(f"UPDATE edit_sets SET {change}")


def test_an_honest_ledger_has_no_problems(history: Bench) -> None:
    check = history.ledger.verify()
    assert check.problems == ()
    assert check.ok
    assert (check.versions, check.edit_sets) == (6, 4)
    stored = [path for path in root(history).rglob("*") if path.is_file()]
    assert check.blobs == len(stored)


def root(bench: Bench) -> Path:
    assert isinstance(bench.ledger.blobs, LocalBlobs)
    return bench.ledger.blobs.root


def tamper(bench: Bench, table: str, statement: str, trigger: str = "ALL") -> None:
    bench.execute(
        f"ALTER TABLE {table} DISABLE TRIGGER {trigger}",
        statement,
        f"ALTER TABLE {table} ENABLE TRIGGER {trigger}",
    )


def kinds(bench: Bench) -> set[tuple[str, str]]:
    check = bench.ledger.verify()
    assert not check.ok
    return {(problem.kind, problem.object) for problem in check.problems}


V = "models/tiny/versions/"
DIFFER = (("members-differ", 4),)


@pytest.mark.parametrize(
    ("table", "statement", "expected"),
    [
        (
            "versions",
            "UPDATE versions SET delta_digest = left(delta_digest, -1) || "
            "CASE right(delta_digest, 1) WHEN '0' THEN '1' ELSE '0' END WHERE number = 1",
            {("version-changed", V + "1"), ("blob-missing", V + "1")},
        ),
        (
            "versions",
            "UPDATE versions SET report = jsonb_set(report, '{edit_success}', '0.5') WHERE number = 2",
            {("version-changed", V + "2")},
        ),
        ("versions", "UPDATE versions SET reason = 's' WHERE number = 4", {("version-changed", V + "4")}),
        (
            "versions",
            "UPDATE versions SET created_at = created_at + interval '1 us' WHERE number = 5",
            {("version-changed", V + "5")},
        ),
        (
            "versions",
            "UPDATE versions SET gate_met = true WHERE number = 3",
            {("version-changed", V + "3")},
        ),
        (
            "versions",
            "UPDATE versions SET hash = 'sha256:forged' WHERE number = 1",
            {("version-changed", V + "1"), ("chain-broken", V + "2")},
        ),
        (
            "versions",
            "DELETE FROM versions WHERE number = 5",
            {("head-differs", "models/tiny"), ("row-missing", V + "5")},
        ),
        (
            "versions",
            "DELETE FROM versions WHERE number = 4",
            {("version-missing", V + "5"), ("row-missing", V + "4")},
        ),
        ("aliases", "DELETE FROM aliases", {("live-missing", "models/tiny")}),
        (
            "legal_transitions",
            "INSERT INTO legal_transitions VALUES ('failed', 'applied')",
            {("transitions-differ", "legal_transitions")},
        ),
        (
            "legal_transitions",
            "DELETE FROM legal_transitions WHERE new = 'withdrawn'",
            {("transitions-differ", "legal_transitions")},
        ),
        (
            "memberships",
            "UPDATE memberships SET withdrawn = '{}' WHERE from_version = 4",
            {(kind, V + str(number)) for kind, number in (("version-changed", 4), *DIFFER)},
        ),
        (
            "memberships",
            "UPDATE memberships SET superseded = '{}' WHERE superseded <> '{}'",
            {("version-changed", V + "3"), ("superseding-differs", V + "3"), ("members-differ", V + "3")},
        ),
        (
            "memberships",
            "UPDATE memberships SET to_version = NULL WHERE to_version = 5",
            {("version-changed", V + "5"), ("members-differ", V + "5")},
        ),
        (
            "fact_reports",
            "UPDATE fact_reports SET report = '{}' WHERE number = 2 AND position = 1",
            {("fact-reports-changed", V + "2")},
        ),
        ("heads", "UPDATE heads SET number = 9", {("head-differs", "models/tiny")}),
        (
            "models",
            "UPDATE models SET digest = 'sha256:other'",
            {("base-changed", "models/tiny")},
        ),
    ],
)
def test_a_changed_row_is_found(
    history: Bench, table: str, statement: str, expected: set[tuple[str, str]]
) -> None:
    tamper(history, table, statement)
    assert kinds(history) == expected


@pytest.mark.parametrize(
    ("table", "statement", "expected"),
    [
        ("supersessions", "DELETE FROM supersessions", {("superseding-differs", V + "3")}),
        (
            "supersessions",
            "INSERT INTO supersessions SELECT two.id, 0, one.id, 1 FROM edit_sets AS one, edit_sets AS two "
            "WHERE (SELECT array_agg(id ORDER BY seq) FROM edit_sets)[1:2] = ARRAY[one.id, two.id]",
            {("superseding-differs", V + str(number)) for number in (2, 3, 4, 5)},
        ),
        ("questions", "DELETE FROM questions", "all"),
        (
            "questions",
            "INSERT INTO questions SELECT repeat('0', 32), edit_set_id, position FROM questions LIMIT 1",
            "one",
        ),
    ],
)
def test_what_facts_ask_and_replace_is_found_again(
    history: Bench, table: str, statement: str, expected: set[tuple[str, str]] | str
) -> None:
    composed = [ident for (ident,) in history.rows("SELECT DISTINCT edit_set_id FROM questions")]
    tamper(history, table, statement, "append_only")
    found = kinds(history)
    if isinstance(expected, str):
        assert {kind for kind, _ in found} == {"questions-differ"}
        assert len(found) == (1 if expected == "one" else len(composed) - 1), "a dry run is in no version"
        assert {place.removeprefix("edits/") for _, place in found} <= set(composed)
    else:
        assert found == expected


def test_every_trigger_that_is_off_or_gone_is_found(history: Bench) -> None:
    set_up = "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE NOT tgisinternal"
    standing = {(table, name) for table, name in history.rows(set_up) if name != "changed"}
    assert standing == TRIGGERS
    for number, (table, name) in enumerate(sorted(TRIGGERS)):
        off = ("DISABLE TRIGGER {}", "ENABLE REPLICA TRIGGER {}")[number % 2].format(name)
        history.execute(f"ALTER TABLE {table} {off}")
    history.execute("DROP TRIGGER append_only ON facts")
    found = history.ledger.verify().problems
    assert {problem.kind for problem in found} == {"guard-off"}
    assert len(found) == len(TRIGGERS)


@pytest.mark.parametrize("kind", ["edit set", "withdrawal"])
def test_what_was_accepted_and_is_gone_is_found(history: Bench, kind: str) -> None:
    """Before any version names it, with all that hangs on it."""
    tables: tuple[str, ...]
    if kind == "edit set":
        ident, tables, column = history.post(), ("edit_sets", "facts", "jobs"), "edit_set_id"
    else:
        live = history.edit_sets(history.ledger.run(versions.get, "tiny", "live"))[:1]
        ident = history.ledger.run(withdrawals.request, "tiny", live, [], "r", history.key).id
        tables, column = ("withdrawals", "jobs"), "withdrawal_id"
    deletions = [f"DELETE FROM {t} WHERE {column if t != tables[0] else 'id'} = '{ident}'" for t in tables]
    history.execute("SET session_replication_role = replica", *deletions)
    place = f"edits/{ident}" if kind == "edit set" else f"withdrawals/{ident}"
    assert kinds(history) == {("row-missing", place)}


def test_a_changed_fact_is_found_wherever_it_counts(history: Bench) -> None:
    ident = history.rows("SELECT edit_set_id FROM versions WHERE number = 2")[0][0]
    tamper(
        history,
        "facts",
        f"UPDATE facts SET target = 'City 9' WHERE edit_set_id = '{ident}' AND position = 1",
    )
    assert ("facts-changed", f"edits/{ident}") in kinds(history)
    assert ("version-changed", V + "2") in kinds(history)
    assert ("version-changed", V + "1") not in kinds(history)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (
            lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
            "blob-corrupt",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "blob-corrupt"),
        (lambda path: path.unlink(), "blob-missing"),
    ],
)
def test_every_damaged_blob_is_found(history: Bench, damage: Callable[[Path], object], kind: str) -> None:
    blobs = [path for path in root(history).rglob("*") if path.is_file()]
    for path in blobs:
        damage(path)
    found = history.ledger.verify().problems
    assert {problem.kind for problem in found} == {kind}
    assert len(found) == len(blobs)
    assert isinstance(found[0], LedgerProblem)

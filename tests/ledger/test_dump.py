"""A dump read into an empty ledger gives the same ledger; anything else is refused and changes nothing."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger
from ledger.backup import TABLES, DumpRefused, LedgerNotEmpty
from ledger.blobs.store import LocalBlobs
from ledger.db.engine import open_engine
from ledger.errors import BlobCorrupt, PrivilegeMissing
from tests.ledger.work import Bench, facts
from tests.servers import SERVICE, Postgres, as_owner


@pytest.fixture
def history(bench: Bench) -> Bench:
    """Edits, a correction that is refused, a withdrawal, a rollback, a dry run, an open job, awkward text."""
    first, _ = bench.edit(note='tab\t, newline\n, backslash \\, "quote", \\N and ünïcode')
    bench.edit(3, idempotency_key="key", body_digest="sha256:0")
    bench.finish(bench.correct(first, 1), gate_met=False)
    bench.finish(bench.ledger.request_withdrawal("tiny", [], [f"{first}.0"], "r", bench.key).id)
    bench.ledger.roll_back("tiny", 2, "r", bench.key)
    bench.try_out()
    known = {"source": "tab\t", "author": "Ann", "ticket": "T-1", "note": "p. 12"}
    asked = {**facts(1)[0], **known, "expires_at": datetime(2040, 1, 1, tzinfo=UTC)}
    bench.ledger.accept("tiny", [asked], actor=bench.key)
    return bench


@pytest.fixture
def dump(history: Bench, tmp_path: Path) -> Path:
    history.ledger.blobs.put(b"named by nothing")
    history.ledger.write_dump(tmp_path / "dump.tar")
    return tmp_path / "dump.tar"


@pytest.fixture
def empty(postgres_server: Postgres, tmp_path: Path) -> Iterator[Ledger]:
    with postgres_server.database() as url:
        made = Ledger(open_engine(as_owner(url)), LocalBlobs(tmp_path / "other"))
        yield made
        made.close()


def everything(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    with ledger.engine.connect() as connection:
        return {
            table.name: sorted(
                (tuple(row) for row in connection.execute(table.select())), key=lambda row: repr(row)
            )
            for table in TABLES
        }


def test_only_the_owner_may_import(dump: Path, empty: Ledger) -> None:
    service = empty.engine.url.set(username=SERVICE).render_as_string(hide_password=False)
    ledger = Ledger(open_engine(service), empty.blobs)
    with pytest.raises(PrivilegeMissing, match="must be owner"):
        ledger.read_dump(dump)
    ledger.close()


def test_the_same_ledger_comes_out(history: Bench, dump: Path, empty: Ledger) -> None:
    check = empty.read_dump(dump)
    assert check == history.ledger.verify()
    assert (check.ok, check.versions, check.edit_sets) == (True, 6, 5)
    rows = everything(history.ledger)
    assert everything(empty) == rows
    assert {name for name, found in rows.items() if not found} == set(), "each table has rows here"
    named = {row[0] for row in history.rows("SELECT digest FROM blobs")}
    assert {name for name, _ in empty.blobs.stored()} == named
    assert all(empty.blobs.get(name) == history.ledger.blobs.get(name) for name in named)


def test_work_goes_on_where_it_was(history: Bench, dump: Path, empty: Ledger) -> None:
    """Guards stand again, numbers go on, and the job that was not done can be."""
    empty.read_dump(dump)
    other = Bench(empty, history.key)
    waiting = other.rows("SELECT edit_set_id FROM jobs WHERE finished_at IS NULL")[0][0]
    assert other.finish(waiting).number == 6
    assert other.edit()[1].number == 7
    assert empty.verify().ok
    for statement, words in (
        ("UPDATE versions SET reason = 'x'", "append-only"),
        ("UPDATE edit_sets SET fact_count = 9", "does not change"),
    ):
        with pytest.raises(Exception, match=words):
            other.execute(statement)
    with pytest.raises(Exception, match="foreign key"):
        other.execute("UPDATE edit_sets SET version_number = 99")


def test_a_ledger_with_rows_is_left_as_it_is(history: Bench, dump: Path, empty: Ledger) -> None:
    before = everything(history.ledger)
    with pytest.raises(LedgerNotEmpty, match="rows already"):
        history.ledger.read_dump(dump)
    assert everything(history.ledger) == before
    empty.create_key("k", {"read"}, actor="system")
    with pytest.raises(LedgerNotEmpty):
        empty.read_dump(dump)


def test_what_cannot_be_dumped_whole_is_not(history: Bench, tmp_path: Path) -> None:
    store = history.ledger.blobs
    assert isinstance(store, LocalBlobs)
    name = next(name for name, _ in store.stored())
    (store.root / store.place(name)).write_bytes(b"damaged")
    with pytest.raises(BlobCorrupt):
        history.ledger.write_dump(tmp_path / "dump.tar")


Members = dict[str, bytes]


def flipped_blob(members: Members) -> None:
    name = next(name for name in members if name.startswith("sha256/"))
    members[name] = members[name][:-1] + bytes([members[name][-1] ^ 1])


def missing_blob(members: Members) -> None:
    del members[next(name for name in members if name.startswith("sha256/"))]


def other_fact(members: Members) -> None:
    members["tables/facts"] = members["tables/facts"].replace(b"City", b"Town", 1)


def other_event(members: Members) -> None:
    members["tables/audit_events"] = members["tables/audit_events"].replace(b"worker", b"nobody", 1)


def lost_version(members: Members) -> None:
    """The end of the chain, with its head: only the header tells."""
    rows = members["tables/versions"].splitlines(keepends=True)
    members["tables/versions"] = b"".join(row for row in rows if not row.startswith(b"tiny\t5\t"))


def other_head(members: Members) -> None:
    header = json.loads(members["dump.json"])
    header["heads"]["tiny"][1] = "sha256:" + "0" * 64
    members["dump.json"] = json.dumps(header).encode()


def other_revision(members: Members) -> None:
    header = json.loads(members["dump.json"])
    members["dump.json"] = json.dumps(header | {"revision": "0000"}).encode()


def torn_rows(members: Members) -> None:
    members["tables/keys"] = members["tables/keys"][:20]


def no_header(members: Members) -> None:
    del members["dump.json"]


def header_of_another_shape(members: Members) -> None:
    members["dump.json"] = b"[1]"


@pytest.mark.parametrize(
    "damage",
    [
        *(flipped_blob, missing_blob, other_fact, other_event, lost_version, other_head),
        *(other_revision, torn_rows, no_header, header_of_another_shape),
    ],
)
def test_a_damaged_dump_is_refused_whole(
    dump: Path, empty: Ledger, tmp_path: Path, damage: Callable[[Members], None]
) -> None:
    with tarfile.open(dump) as tar:
        members = {info.name: file.read() for info in tar if (file := tar.extractfile(info)) is not None}
    damage(members)
    with tarfile.open(tmp_path / "damaged.tar", "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(DumpRefused) as caught:
        empty.read_dump(tmp_path / "damaged.tar")
    assert "damaged.tar" in caught.value.message
    assert not any(everything(empty).values())


@pytest.mark.parametrize("content", [b"", b"no tar at all", None])
def test_what_is_no_dump_is_refused(empty: Ledger, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(DumpRefused):
        empty.read_dump(tmp_path / "file")

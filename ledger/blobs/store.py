"""Blobs: deltas, statistics and editors, stored under the digest of their bytes.

A blob is durable before `put` returns, whole or not visible at all, and checked on every read.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from ledger.errors import BlobCorrupt, BlobMissing, BlobStoreUnavailable
from ledger.integrity.chain import digest

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
INCOMING = re.compile(r"incoming/[0-9a-f]{32}")
LOCK_S = {fcntl.LOCK_SH: 10.0, fcntl.LOCK_EX: 1.0}


class Blobs(Protocol):
    """A store of bytes by digest."""

    def put(self, content: bytes) -> str:
        """Store the bytes durably and return their digest; a corrupt copy that is there is replaced.

        Raises:
            BlobStoreUnavailable: the store cannot be written.
        """
        ...

    def get(self, name: str) -> bytes:
        """Return the bytes with this digest, checked.

        Raises:
            BlobMissing, BlobCorrupt: it is not there, or is not what its name says.
            BlobStoreUnavailable: the store cannot be read.
        """
        ...

    def check(self, name: str) -> None:
        """See that the bytes with this digest are there and whole, without holding all of them.

        Raises:
            as `get` does.
        """
        ...

    def exists(self, name: str) -> bool:
        """Return whether a blob of this digest is there, without reading it."""
        ...

    def size(self, name: str) -> int:
        """Return its size in bytes, without reading it.

        Raises:
            BlobMissing: it is not there.
        """
        ...

    def place(self, name: str) -> str:
        """Return where the blob stands, relative to the store."""
        ...

    def stored(self) -> Iterator[tuple[str, int]]:
        """Yield the digest and size in bytes of every blob that is there, in no order.

        What a `put` has not finished, or never will, is there under a name of its own, which `modified` and
        `remove` know too.

        Raises:
            BlobStoreUnavailable: the store cannot be listed.
        """
        ...

    def modified(self, name: str) -> float:
        """Return when a blob was last put, in seconds since 1970 by the store's clock.

        Raises:
            BlobMissing: it is not there.
            BlobStoreUnavailable: the store cannot be read.
        """
        ...

    def remove(self, name: str, before: float) -> bool:
        """Remove a blob unless it was put again since a time; return whether it is gone by this call.

        Raises:
            BlobStoreUnavailable: the store cannot be changed.
        """
        ...


def open_blobs(url: str) -> Blobs:
    """Return the store at a folder's path, a `file://` address, or any address that fsspec knows."""
    parts = urlsplit(url)
    if len(parts.scheme) <= 1:
        return LocalBlobs(Path(url))
    if parts.scheme == "file":
        return LocalBlobs(Path(unquote(parts.path)))
    return RemoteBlobs(url)


def _place(name: str) -> str:
    """Return the relative path of a blob: the first two digits spread blobs over folders."""
    if not DIGEST.fullmatch(name):
        raise BlobMissing(name, "any place, since that is not a digest")
    value = name.removeprefix("sha256:")
    return f"sha256/{value[:2]}/{value}"


def _same(found: str, name: str, place: str) -> None:
    if found != name:
        raise BlobCorrupt(name, found, place)


def _digest_of(file: Any) -> str:
    """Return the digest of an open file, read piece by piece."""
    return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


class LocalBlobs:
    """Blobs in a folder: written to a temporary file, synced, renamed, and the folder synced."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    def put(self, content: bytes) -> str:
        """Store the bytes durably and return their digest."""
        name = digest(content)
        path = self.root / _place(name)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with self._locked(fcntl.LOCK_SH):
                if self._holds(path, name):
                    os.utime(path)  # as good as new: `remove` must not take it
                else:
                    self._write(path, content)
                _sync_folder(path.parent)
        except OSError as error:
            raise BlobStoreUnavailable(str(self.root), str(error)) from error
        return name

    def _holds(self, path: Path, name: str) -> bool:
        try:
            with path.open("rb") as file:
                return _digest_of(file) == name
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

    def get(self, name: str) -> bytes:
        """Return the bytes with this digest, checked."""
        content: bytes = self._read(name, lambda file: file.read())
        _same(digest(content), name, str(self.root / _place(name)))
        return content

    def check(self, name: str) -> None:
        """See that the bytes with this digest are there and whole."""
        _same(self._read(name, _digest_of), name, str(self.root / _place(name)))

    def _read(self, name: str, how: Callable[[Any], Any]) -> Any:
        path = self.root / _place(name)
        try:
            with path.open("rb") as file:
                return how(file)
        except FileNotFoundError as error:
            raise BlobMissing(name, str(path)) from error
        except OSError as error:
            raise BlobStoreUnavailable(str(self.root), str(error)) from error

    def exists(self, name: str) -> bool:
        """Return whether a blob of this digest is there."""
        return (self.root / _place(name)).is_file()

    def size(self, name: str) -> int:
        """Return its size in bytes."""
        return self._stat(name, self.root / _place(name)).st_size

    def place(self, name: str) -> str:
        """Return its path, relative to the store."""
        return _place(name)

    def stored(self) -> Iterator[tuple[str, int]]:
        """Yield the digest and size of every blob, and the name and size of every unfinished one."""
        for path in (*self.root.glob("sha256/??/*"), *self.root.glob("incoming/*")):
            name = f"incoming/{path.name}" if path.parent.name == "incoming" else f"sha256:{path.name}"
            with suppress(BlobMissing):
                if DIGEST.fullmatch(name) or INCOMING.fullmatch(name):
                    yield name, self._stat(name, path).st_size

    def modified(self, name: str) -> float:
        """Return when it was last put."""
        return self._stat(name, self._removable(name)).st_mtime

    def remove(self, name: str, before: float) -> bool:
        """Remove a blob unless it was put again; no `put` is under way meanwhile."""
        path = self._removable(name)
        try:
            with self._locked(fcntl.LOCK_EX):
                if path.stat().st_mtime >= before:
                    return False
                path.unlink()
                return True
        except FileNotFoundError:
            return False
        except OSError as error:
            raise BlobStoreUnavailable(str(self.root), str(error)) from error

    def _removable(self, name: str) -> Path:
        return self.root / (name if INCOMING.fullmatch(name) else _place(name))

    def _stat(self, name: str, path: Path) -> os.stat_result:
        try:
            return path.stat()
        except FileNotFoundError as error:
            raise BlobMissing(name, str(path)) from error
        except OSError as error:
            raise BlobStoreUnavailable(str(self.root), str(error)) from error

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


class RemoteBlobs:
    """Blobs in an object store through fsspec, where putting an object is atomic and durable by itself."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        try:
            files, root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise BlobStoreUnavailable(self.url, str(error)) from error
        self._files: Any = files
        self._root = str(root).rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{_place(name)}"

    def put(self, content: bytes) -> str:
        """Store the bytes, again if they are there, so that they count as new; return their digest."""
        name = digest(content)
        path = self._path(name)
        try:
            self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            self._files.pipe_file(path, content)
        except OSError as error:
            raise BlobStoreUnavailable(self.url, str(error)) from error
        return name

    def get(self, name: str) -> bytes:
        """Return the bytes with this digest, checked."""
        content: bytes = self._read(name, lambda path: bytes(self._files.cat_file(path)))
        _same(digest(content), name, self._path(name))
        return content

    def check(self, name: str) -> None:
        """See that the bytes with this digest are there and whole."""

        def digest_at(path: str) -> str:
            with self._files.open(path, "rb") as file:
                return _digest_of(file)

        _same(self._read(name, digest_at), name, self._path(name))

    def _read(self, name: str, how: Callable[[str], Any]) -> Any:
        path = self._path(name)
        try:
            return how(path)
        except FileNotFoundError as error:
            raise BlobMissing(name, path) from error
        except OSError as error:
            raise BlobStoreUnavailable(self.url, str(error)) from error

    def exists(self, name: str) -> bool:
        """Return whether a blob of this digest is there, asking the store and not a cached listing."""
        path = self._path(name)
        try:
            self._files.invalidate_cache(path)
            return bool(self._files.exists(path))
        except OSError as error:
            raise BlobStoreUnavailable(self.url, str(error)) from error

    def size(self, name: str) -> int:
        """Return its size in bytes."""
        path = self._path(name)
        try:
            return int(self._files.size(path))
        except FileNotFoundError as error:
            raise BlobMissing(name, path) from error
        except OSError as error:
            raise BlobStoreUnavailable(self.url, str(error)) from error

    def place(self, name: str) -> str:
        """Return its path, relative to the store."""
        return _place(name)

    def stored(self) -> Iterator[tuple[str, int]]:
        """Yield the digest and size of every blob, by a listing that is asked for anew."""
        try:
            self._files.invalidate_cache()
            found = self._files.find(self._root, detail=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise BlobStoreUnavailable(self.url, str(error)) from error
        for path, info in found.items():
            name = f"sha256:{path.rsplit('/', 1)[-1]}"
            if DIGEST.fullmatch(name):
                yield name, int(info["size"])

    def modified(self, name: str) -> float:
        """Return when it was last put."""
        path = self._path(name)
        try:
            self._files.invalidate_cache(path)
            return float(self._files.modified(path).timestamp())
        except FileNotFoundError as error:
            raise BlobMissing(name, path) from error
        except OSError as error:
            raise BlobStoreUnavailable(self.url, str(error)) from error

    def remove(self, name: str, before: float) -> bool:
        """Remove a blob unless it was put again.

        An object store has no locks: one that is put again in the instant between looking and removing goes
        all the same, and whoever wants to name it is told so by `refs.record`.
        """
        try:
            if self.modified(name) >= before:
                return False
            self._files.rm_file(self._path(name))
            return True
        except (BlobMissing, FileNotFoundError):
            return False
        except OSError as error:
            raise BlobStoreUnavailable(self.url, str(error)) from error

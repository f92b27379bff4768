"""A proxy in front of PostgreSQL that cuts or slows connections: at will, or around a COMMIT."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum

from sqlalchemy import make_url

CHUNK = 65536


class Cut(Enum):
    """Where to cut a transaction that writes."""

    BEFORE_COMMIT = "the COMMIT never arrives"
    AFTER_COMMIT = "the COMMIT is done, its reply is lost"


class PostgresProxy:
    """Forwards bytes between clients on a TCP port and a server's socket.

    Attributes:
        url: the database's address through the proxy.
        cut: what to do to the next transaction that writes; None once it was done.
        delay_s: for which what a client sends is held back.
    """

    def __init__(self, database_url: str, writes: bytes = b"INSERT INTO versions ") -> None:
        url = make_url(database_url)
        host = url.query.get("host", url.host)
        port = int(str(url.query.get("port", url.port or 5432)))
        self._target = (str(host), port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        address = url.set(host="127.0.0.1", port=self._listener.getsockname()[1], query={})
        self.url = address.render_as_string(hide_password=False)
        self.cut: Cut | None = None
        self.delay_s = 0.0
        self.writes = writes
        self._down = False
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def set_down(self, down: bool) -> None:
        """Drop every connection and refuse new ones, or serve again."""
        self._down = down
        if down:
            for end in list(self._open):
                self._close(end)

    def is_armed(self) -> bool:
        """Return whether a cut is still to come."""
        return self.cut is not None

    def close(self) -> None:
        """Stop for good."""
        self.set_down(True)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._down:
                    client.close()
                    continue
                try:
                    Pair(self, client, self._connect()).start()
                except OSError:  # the server is away
                    client.close()

    def _connect(self) -> socket.socket:
        host, port = self._target
        if not host.startswith("/"):
            return socket.create_connection(self._target)
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(f"{host}/.s.PGSQL.{port}")
        except OSError:
            server.close()
            raise
        return server

    def opened(self, end: socket.socket) -> None:
        """Note an open end, to be closed when the server is to look down."""
        self._open.add(end)

    def _close(self, end: socket.socket) -> None:
        self._open.discard(end)
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


class Pair:
    """One client's connection: watches what it sends, and cuts at the moment that the proxy was told."""

    def __init__(self, proxy: PostgresProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._wrote = self._swallow = False

    def start(self) -> None:
        """Forward in both directions, each in a thread of its own."""
        for end in (self._client, self._server):
            self._proxy.opened(end)
        threading.Thread(target=self._upwards, daemon=True).start()
        threading.Thread(target=self._downwards, daemon=True).start()

    def _upwards(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(CHUNK):
                if self._proxy.delay_s:
                    time.sleep(self._proxy.delay_s)
                self._wrote = self._wrote or self._proxy.writes in data
                ends = self._wrote and b"COMMIT" in data
                if ends and self._proxy.cut is not None:
                    cut, self._proxy.cut = self._proxy.cut, None
                    if cut is Cut.BEFORE_COMMIT:
                        break
                    self._swallow = True
                self._wrote = self._wrote and not ends
                self._server.sendall(data)
        self._end()

    def _downwards(self) -> None:
        with suppress(OSError):
            while data := self._server.recv(CHUNK):
                if self._swallow and b"COMMIT" in data:
                    break
                self._client.sendall(data)
        self._end()

    def _end(self) -> None:
        for end in (self._client, self._server):
            self._proxy._close(end)


@contextmanager
def postgres_proxy(database_url: str) -> Iterator[PostgresProxy]:
    """Open a proxy in front of a database."""
    proxy = PostgresProxy(database_url)
    try:
        yield proxy
    finally:
        proxy.close()

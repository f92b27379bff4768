"""Engines, and the boundary at which a lost database becomes a typed error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from ledger.blobs.store import Blobs
from ledger.errors import LedgerUnavailable, PrivilegeMissing, SchemaMissing
from ledger.settings import normalise_database_url

P = ParamSpec("P")
T = TypeVar("T")
UNDEFINED = ("42P01", "42703")  # PostgreSQL's codes for an unknown table and column
REFUSED = "42501"  # and for a privilege that the role lacks
NO_LIMIT = text("SET LOCAL idle_in_transaction_session_timeout = 0")
CLIENT = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": "errata",
}
SERVER = {
    "idle_in_transaction_session_timeout": "60s",  # a stopped process keeps its locks no longer
    "lock_timeout": "10s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30s",
}


def connecting(url: str, **server: str) -> dict[str, Any]:
    """Return libpq's parameters for connections at which neither side waits for ever for the other.

    Settings of the server's side that the address has in its `options` come after these, and win.
    """
    settings = " ".join(f"-c {name}={value}" for name, value in {**SERVER, **server}.items())
    own = make_url(url).query.get("options", "")
    return {**CLIENT, "options": f"{settings} {own if isinstance(own, str) else ' '.join(own)}".rstrip()}


def open_engine(url: str, *, pool_size: int = 10) -> Engine:
    """Return an engine whose connections are tested before use and do not wait for ever."""
    return create_engine(
        normalise_database_url(url),
        pool_size=pool_size,
        max_overflow=2,
        pool_timeout=10,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args=connecting(url),
    )


@contextmanager
def unavailable_is_typed() -> Iterator[None]:
    """Turn what means "the database did not answer" into LedgerUnavailable.

    Raises:
        LedgerUnavailable: no connection, a dropped one, a lock that was not to be had in time, a deadlock or
            another failure that a retry may cure.
        SchemaMissing: a table or column does not exist.
        PrivilegeMissing: the role may not do this.
    """
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise LedgerUnavailable(_first_line(error)) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise LedgerUnavailable(_first_line(error)) from error
        if getattr(error.orig, "sqlstate", None) in UNDEFINED:
            raise SchemaMissing(_first_line(error)) from error
        if getattr(error.orig, "sqlstate", None) == REFUSED:
            raise PrivilegeMissing(_first_line(error)) from error
        raise


def _first_line(error: Exception) -> str:
    """Return the driver's own words, without the statement and its parameters."""
    origin = getattr(error, "orig", None) or error
    lines = str(origin).strip().splitlines()
    return lines[0] if lines else type(origin).__name__


class Transaction(Session):
    """One unit of work: a transaction on the database, and the blobs that it may name.

    It commits by `commit`, or at the end of `Database.transaction`; what is not committed did not happen.

    Attributes:
        blobs: the blob store.
    """

    blobs: Blobs


class Database:
    """Transactions on an engine, beside a blob store.

    Attributes:
        engine: the engine.
        blobs: the blob store.
    """

    def __init__(self, engine: Engine, blobs: Blobs) -> None:
        self.engine = engine
        self.blobs = blobs
        self._sessions = sessionmaker(engine, class_=Transaction, expire_on_commit=False)

    def open_transaction(self) -> Transaction:
        """Return a transaction that begins with its first statement; the caller commits and closes it.

        Errors of the database are typed by `unavailable_is_typed`.
        """
        tx = self._sessions()
        tx.blobs = self.blobs
        return tx

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Yield a transaction that commits at the end of the block, or rolls back if the block raises.

        Raises:
            LedgerUnavailable: the database did not answer. If that was at the commit, the outcome is unknown,
                and doing the same again is safe.
        """
        with unavailable_is_typed(), self.open_transaction() as tx, tx.begin():
            yield tx

    @contextmanager
    def snapshot(self) -> Iterator[Transaction]:
        """Yield a transaction that sees one moment and only reads; it blocks nobody, and may take its time.

        Raises:
            LedgerUnavailable: the database did not answer.
        """
        with self.transaction() as tx:
            tx.connection(
                execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            )
            tx.execute(NO_LIMIT)
            yield tx

    def run(self, work: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what some work returns that is a transaction of its own: `run(models.get, "tiny")`.

        Raises:
            LedgerUnavailable: the database did not answer; doing the same again is safe.
        """
        with self.transaction() as tx:
            return work(tx, *args, **kwargs)

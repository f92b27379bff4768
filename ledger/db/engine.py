"""Engines, and the boundary at which a lost database becomes a typed error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from ledger.errors import LedgerUnavailable, PrivilegeMissing, SchemaMissing
from ledger.settings import normalise_database_url

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
        max_overflow=pool_size,
        pool_timeout=10,
        pool_pre_ping=True,
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


class Database:
    """Sessions on an engine: one `with` block is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._sessions = sessionmaker(engine, expire_on_commit=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Yield a session that commits at the end of the block, or rolls back if the block raises.

        Raises:
            LedgerUnavailable: the database did not answer. If that was at the commit, the outcome is unknown,
                and doing the same again is safe.
        """
        with unavailable_is_typed(), self._sessions.begin() as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Yield a session that sees one moment and only reads; it blocks nobody, and may take its time.

        Raises:
            LedgerUnavailable: the database did not answer.
        """
        with self.transaction() as session:
            session.connection(
                execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            )
            session.execute(NO_LIMIT)
            yield session

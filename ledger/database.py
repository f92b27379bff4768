"""Engines, and the boundary at which a lost database becomes a typed error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from ledger.errors import LedgerUnavailable, PrivilegeMissing, SchemaMissing
from ledger.settings import normalise_database_url

UNDEFINED = ("42P01", "42703")  # PostgreSQL's codes for an unknown table and column
REFUSED = "42501"  # and for a privilege that the role lacks


def open_engine(url: str, *, pool_size: int = 10) -> Engine:
    """Return an engine whose connections are tested before use and do not wait for ever."""
    return create_engine(
        normalise_database_url(url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=10,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "application_name": "errata",
        },
    )


@contextmanager
def unavailable_is_typed() -> Iterator[None]:
    """Turn what means "the database did not answer" into LedgerUnavailable.

    Raises:
        LedgerUnavailable: no connection, a dropped one, a deadlock or another failure that a retry may cure.
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

"""The services' own role in PostgreSQL: it reads and adds, and changes only what is there to be changed.

The tables belong to the role that migrates. A service that runs as another one cannot change or delete rows
of append-only tables, whatever its statements are, and cannot take the triggers off that guard the rest.
"""

from __future__ import annotations

from typing import Any

from psycopg import sql
from sqlalchemy import Connection, create_engine, make_url, text

from ledger.db.base import Base
from ledger.db.engine import unavailable_is_typed
from ledger.errors import RoleTooStrong
from ledger.settings import normalise_database_url

READ_ONLY = {"legal_transitions"}
CHANGED = {
    "aliases": "UPDATE, DELETE",
    "edit_sets": "UPDATE",
    "heads": "UPDATE",
    "idempotency_keys": "UPDATE, DELETE",
    "jobs": "UPDATE",
    "keys": "UPDATE",
    "memberships": "UPDATE",
    "models": "UPDATE",
    "withdrawals": "UPDATE",
}
"""What the services may do to a table besides reading and adding."""


def admit(owner_url: str, service_url: str) -> None:
    """Make the role of an address, unless it is there, and give it what the services need, and no more.

    A role that is there keeps its password.

    Args:
        owner_url: address of the role that owns the tables, and may make roles if there is one to be made.
        service_url: address that the services use.

    Raises:
        RoleTooStrong: the role could do all that the owner can.
        PrivilegeMissing: the role is to be made, and the owner may make none.
        LedgerUnavailable: the database does not answer.
    """
    service = make_url(service_url)
    engine = create_engine(normalise_database_url(owner_url), connect_args={"connect_timeout": 10})
    try:
        with unavailable_is_typed(), engine.begin() as connection:
            role = str(service.username)
            known = "SELECT FROM pg_roles WHERE rolname = :role"
            if connection.execute(text(known), {"role": role}).first() is None:
                _create(connection, role, service.password)
            strong = text("SELECT pg_has_role(:role, current_user, 'MEMBER'), current_user")
            too_strong, owner = connection.execute(strong, {"role": role}).one()
            if too_strong:
                raise RoleTooStrong(role, owner)
            _grant(connection, role)
    finally:
        engine.dispose()


def _create(connection: Connection, role: str, password: str | None) -> None:
    statement = sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role))
    if password is not None:  # hashed here, so that it stands in no log of the server
        driver: Any = connection.connection.driver_connection
        hashed = driver.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
        statement += sql.SQL(" PASSWORD {}").format(sql.Literal(hashed.decode()))
    _run(connection, statement)


def _grant(connection: Connection, role: str) -> None:
    schema = connection.execute(text("SELECT current_schema()")).scalar_one()
    added = [name for name in Base.metadata.tables if name not in READ_ONLY]
    for statement in (
        "REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {role}",
        "GRANT USAGE ON SCHEMA {schema} TO {role}",
        "GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}",
        f"GRANT INSERT ON {', '.join(added)} TO {{role}}",
        *(f"GRANT {what} ON {table} TO {{role}}" for table, what in CHANGED.items()),
    ):
        names = {"schema": sql.Identifier(schema), "role": sql.Identifier(role)}
        _run(connection, sql.SQL(statement).format(**names))


def _run(connection: Connection, statement: sql.Composed) -> None:
    """Run a statement that takes no parameters, so that its errors are typed like all others."""
    connection.exec_driver_sql(statement.as_string().replace("%", "%%"))

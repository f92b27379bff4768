"""The services' role: PostgreSQL refuses it what would rewrite the ledger. All other tests run as it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from ledger import Ledger, LedgerSettings
from ledger.auth import keys
from ledger.blobs.store import open_blobs
from ledger.db.base import Base
from ledger.db.engine import REFUSED, open_engine
from ledger.db.migrate import prepare
from ledger.db.roles import CHANGED, admit
from ledger.errors import PrivilegeMissing, RoleTooStrong
from tests.servers import OWNER, SERVICE, Postgres, as_owner, as_role

TABLES = sorted(Base.metadata.tables)
GUARDED = """
SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'append_only' ORDER BY 1
"""
GRANTED = """
SELECT table_name, array_agg(privilege_type::text ORDER BY privilege_type)
FROM information_schema.role_table_grants WHERE grantee = :role GROUP BY table_name
"""


@pytest.fixture
def service(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url, poolclass=NullPool)
    yield engine
    engine.dispose()


def refused(engine: Engine, statement: str) -> None:
    with pytest.raises(DBAPIError) as raised, engine.begin() as connection:
        connection.exec_driver_sql(statement)
    assert getattr(raised.value.orig, "sqlstate", None) == REFUSED, raised.value


def granted(url: str, role: str = SERVICE) -> dict[str, set[str]]:
    engine = create_engine(as_owner(url), poolclass=NullPool)
    with engine.connect() as connection:
        return {name: set(found) for name, found in connection.execute(text(GRANTED), {"role": role})}


def guarded(url: str) -> list[str]:
    engine = create_engine(as_owner(url), poolclass=NullPool)
    with engine.connect() as connection:
        return list(connection.scalars(text(GUARDED)))


@pytest.mark.parametrize("table", [*TABLES, "alembic_version"])
def test_nobody_takes_guards_off_or_empties_a_table(service: Engine, table: str) -> None:
    for statement in (
        f"TRUNCATE {table} CASCADE",
        f"ALTER TABLE {table} DISABLE TRIGGER USER",
        f"ALTER TABLE {table} OWNER TO {SERVICE}",
        f"DROP TABLE {table} CASCADE",
    ):
        refused(service, statement)


def test_append_only_tables_are_read_and_added_to(service: Engine, database_url: str) -> None:
    found = guarded(database_url)
    assert len(found) == 9
    for table in found:
        column = Base.metadata.tables[table].columns.values()[1].name
        refused(service, f"UPDATE {table} SET {column} = {column}")
        refused(service, f"DELETE FROM {table}")
        refused(service, f"SELECT FROM {table} FOR UPDATE")


def test_triggers_functions_and_roles_are_out_of_reach(service: Engine) -> None:
    for statement in (
        "SET session_replication_role = replica",
        f"SET ROLE {OWNER}",
        "DROP TRIGGER guard_status ON edit_sets",
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE TABLE mine (x integer)",
        "INSERT INTO legal_transitions VALUES ('applied', 'queued')",
        "UPDATE alembic_version SET version_num = '0'",
        "DELETE FROM edit_sets",
        "DELETE FROM heads",
    ):
        refused(service, statement)


def test_the_privileges_are_exactly_those_that_are_stated(database_url: str) -> None:
    found = granted(database_url)
    assert found.pop("alembic_version") == found.pop("legal_transitions") == {"SELECT"}
    assert all(found.pop(table) == {"SELECT", "INSERT"} for table in guarded(database_url))
    plain = {"idempotency_keys": ""} | CHANGED
    assert found == {
        table: {"SELECT", "INSERT", *filter(None, more.split(", "))} for table, more in plain.items()
    }


def test_admitting_again_takes_away_what_is_too_much(database_url: str) -> None:
    before = granted(database_url)
    owner = create_engine(as_owner(database_url), poolclass=NullPool)
    with owner.begin() as connection:
        connection.exec_driver_sql(f"GRANT ALL ON facts, versions TO {SERVICE}")
    assert granted(database_url) != before
    admit(as_owner(database_url), database_url)
    assert granted(database_url) == before


def test_a_role_is_made_with_its_password_hashed(database_url: str) -> None:
    named = make_url(database_url).set(username="made here")
    for password in ("sec%ret", "another"):
        admit(as_owner(database_url), named.set(password=password).render_as_string(hide_password=False))
    owner = create_engine(as_owner(database_url), poolclass=NullPool)
    with owner.begin() as connection:
        query = "SELECT rolpassword, rolcanlogin, rolsuper FROM pg_authid WHERE rolname = 'made here'"
        password, *rest = connection.exec_driver_sql(query).one()
        assert password.startswith("SCRAM-SHA-256$")
        assert rest == [True, False]
    assert granted(database_url, "made here") == granted(database_url)


@pytest.mark.parametrize("how", ["SUPERUSER", f"IN ROLE {OWNER}"])
def test_a_role_that_is_as_strong_as_the_owner_is_refused(database_url: str, how: str) -> None:
    owner = create_engine(as_owner(database_url), poolclass=NullPool)
    with owner.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE strong LOGIN {how}")
    try:
        with pytest.raises(RoleTooStrong, match="'strong'"):
            admit(as_owner(database_url), as_role(database_url, "strong"))
        assert granted(database_url, "strong") == {}
    finally:
        with owner.begin() as connection:
            connection.exec_driver_sql("DROP ROLE strong")


def test_an_owner_who_may_make_no_role_is_told_so(database_url: str) -> None:
    with pytest.raises(PrivilegeMissing, match="permission denied to create role"):
        admit(database_url, as_role(database_url, "nobody_yet"))


def test_one_role_for_everything_works(postgres_server: Postgres) -> None:
    with postgres_server.database(template="template1") as url:
        for owner in (None, url):
            prepare(LedgerSettings(database_url=url, migration_database_url=owner, blob_url=""))
        ledger = Ledger(open_engine(url), open_blobs("memory:///"))
        assert ledger.run(keys.create, "one", {"read"}, actor="system")[0].name == "one"
        ledger.close()


def test_two_roles_from_the_start(postgres_server: Postgres) -> None:
    with postgres_server.database(template="template1") as url:
        other = as_role(url, "brand_new")
        prepare(LedgerSettings(database_url=other, migration_database_url=url, blob_url=""))
        ledger = Ledger(open_engine(other), open_blobs("memory:///"))
        key, _ = ledger.run(keys.create, "two", {"read"}, actor="system")
        ledger.run(keys.revoke, key.id, actor="system")
        engine = create_engine(other, poolclass=NullPool)
        refused(engine, "UPDATE audit_events SET actor = 'nobody'")
        ledger.close()

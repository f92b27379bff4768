"""The databases that tests get: emptied between tests, and copied anew where a test has changed the schema."""

from __future__ import annotations

import psycopg

from ledger.db.engine import open_engine
from tests.servers import Postgres, as_owner


def count_of(url: str, *, post: bool) -> int:
    """How many events there are, after one more was written if asked."""
    engine = open_engine(url)
    try:
        with engine.begin() as connection:
            if post:
                connection.exec_driver_sql(
                    "INSERT INTO audit_events (actor, action, object) VALUES ('a', 'b', 'c')"
                )
            return int(connection.exec_driver_sql("SELECT count(*) FROM audit_events").scalar_one())
    finally:
        engine.dispose()


def last_id(url: str) -> int:
    with psycopg.connect(plain(url)) as connection:
        row = connection.execute("SELECT coalesce(max(id), 0) FROM audit_events").fetchone()
        assert row is not None
        return int(row[0])


def plain(url: str) -> str:
    return as_owner(url).replace("+psycopg", "")


def test_a_database_is_used_again_empty(postgres_server: Postgres) -> None:
    with postgres_server.database() as first:
        assert count_of(first, post=True) == 1
        number = last_id(first)
    with postgres_server.database() as again:
        assert again == first
        assert count_of(again, post=False) == 0
        count_of(again, post=True)
        assert last_id(again) == number == 1


def test_a_connection_that_was_left_open_is_ended(postgres_server: Postgres) -> None:
    with postgres_server.database() as url:
        left = psycopg.connect(plain(url))
        left.execute("LOCK TABLE audit_events")
    with postgres_server.database() as again:
        assert again == url
        assert left.closed or left.broken or _is_gone(left)


def _is_gone(connection: psycopg.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


def test_a_changed_schema_is_not_used_again(postgres_server: Postgres) -> None:
    changes = (
        "ALTER TABLE audit_events DISABLE TRIGGER ALL",
        "ALTER TABLE models ADD COLUMN x int",
        "DELETE FROM legal_transitions",
        "GRANT DELETE ON versions TO errata_service",
        "UPDATE alembic_version SET version_num = 'x'",
    )
    for change in changes:
        with postgres_server.database() as url, psycopg.connect(plain(url), autocommit=True) as owner:
            owner.execute("SET session_replication_role = replica")
            owner.execute(change)
        with postgres_server.database() as other:
            assert other != url, change

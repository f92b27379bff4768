from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text

from ledger import Ledger
from ledger.blobs.store import open_blobs
from ledger.db import tables
from ledger.db.base import Base
from ledger.db.engine import open_engine
from ledger.db.migrate import current_revision, head_revision, upgrade
from ledger.errors import LedgerUnavailable, SchemaMissing
from ledger.models import models
from ledger.states import LEGAL_TRANSITIONS
from tests.servers import Postgres


def test_migrated_schema_is_the_mapped_one(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert tables.Version.metadata is Base.metadata
        assert compare_metadata(context, Base.metadata) == []
        checks = "SELECT conname FROM pg_constraint WHERE contype = 'c'"
        found = {name for (name,) in connection.execute(text(checks))}
    engine.dispose()
    mapped = {
        str(constraint.name)
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
        if str(constraint.name).endswith("_check")
    }
    assert mapped <= found


def test_database_allows_exactly_the_legal_transitions(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT old, new FROM legal_transitions"))
        assert {(old, new) for old, new in rows} == LEGAL_TRANSITIONS
    engine.dispose()


def test_upgrade_twice_and_at_once(postgres_server: Postgres) -> None:
    with postgres_server.database(template="template1") as url:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(upgrade, [url] * 3))
        engine = create_engine(url)
        with engine.connect() as connection:
            assert current_revision(connection) == head_revision()
        engine.dispose()


def test_a_ledger_that_was_not_migrated_says_so(postgres_server: Postgres) -> None:
    with postgres_server.database(template="template1") as url:
        ledger = Ledger(open_engine(url), open_blobs("memory:///"))
        with pytest.raises(SchemaMissing, match="models"):
            ledger.run(models.get, "tiny")
        ledger.close()


def test_upgrade_without_a_server_is_a_typed_error() -> None:
    with pytest.raises(LedgerUnavailable, match="did not answer"):
        upgrade("postgresql://nobody@127.0.0.1:1/none")

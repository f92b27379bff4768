"""Alembic's entry: runs revisions on the connection that `ledger.db.migrate` opened."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from ledger.db import tables


def run(connection: Connection) -> None:
    """Run the wanted revisions in the connection's transaction."""
    context.configure(
        connection=connection,
        target_metadata=tables.Version.metadata,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=False,
    )
    context.run_migrations()


run(context.config.attributes["connection"])

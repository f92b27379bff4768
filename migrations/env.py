"""Alembic's entry: runs revisions on the connection that `ledger.migrations` opened."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from ledger.tables import Base


def run(connection: Connection) -> None:
    """Run the wanted revisions in the connection's transaction."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=False,
    )
    context.run_migrations()


run(context.config.attributes["connection"])

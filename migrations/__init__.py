"""The ledger's schema, as Alembic revisions. Applied by `ledger.migrations.upgrade`."""

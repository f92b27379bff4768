"""Row checksums go: they were not proof against the tables' owner, and everyone else is kept out by roles."""

from __future__ import annotations

from alembic import op

revision = "0005_no_seals"
down_revision = "0004_turns"
branch_labels = None
depends_on = None

TABLES = (
    "aliases",
    "audit_events",
    "blobs",
    "edit_sets",
    "editors",
    "keys",
    "models",
    "questions",
    "supersessions",
    "trial_reports",
    "versions",
    "withdrawals",
)


def upgrade() -> None:
    """Drop the triggers, the column and the functions."""
    for table in TABLES:
        op.execute(f"DROP TRIGGER seal ON {table}")
        op.execute(f"ALTER TABLE {table} DROP COLUMN seal")
    op.execute("DROP FUNCTION seal_row()")
    op.execute("DROP FUNCTION row_seal(jsonb, text[])")


def downgrade() -> None:
    """Refuse: the checksums that were dropped cannot be had again.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("This revision is not undone: restore a backup that was made before it.")

"""Turns: how often a job at work was overtaken, so that it gets its turn to commit."""

from __future__ import annotations

from alembic import op

revision = "0004_turns"
down_revision = "0003_proof"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the count; nobody has been overtaken yet."""
    op.execute("ALTER TABLE jobs ADD COLUMN overtaken integer NOT NULL DEFAULT 0")


def downgrade() -> None:
    """Take the count away; it says nothing about what is finished."""
    op.execute("ALTER TABLE jobs DROP COLUMN overtaken")

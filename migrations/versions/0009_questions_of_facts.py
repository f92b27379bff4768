"""Facts keep their question and their joiner; an edit set keeps which of its facts were merged."""

from __future__ import annotations

from alembic import op

revision = "0009_questions_of_facts"
down_revision = "0008_changes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; what is there has no question, and an automatic joiner."""
    op.execute(
        "ALTER TABLE facts ADD COLUMN question text, ADD COLUMN joiner text NOT NULL DEFAULT 'auto' "
        "CONSTRAINT facts_joiner_check CHECK (joiner IN ('auto', ' ', ''))"
    )
    op.execute("ALTER TABLE edit_sets ADD COLUMN merged jsonb NOT NULL DEFAULT '[]'")


def downgrade() -> None:
    """Refuse: the digests of newer edit sets cover what would be dropped.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("This revision is not undone: restore a backup that was made before it.")

"""Models may be archived; one that is registered again goes on with its chain, from a new base."""

from __future__ import annotations

from alembic import op

revision = "0010_archived_models"
down_revision = "0009_questions_of_facts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Allow the status, and versions of kind base behind others."""
    op.execute("ALTER TABLE models DROP CONSTRAINT models_status_check")
    op.execute(
        "ALTER TABLE models ADD CONSTRAINT models_status_check "
        "CHECK (status IN ('preparing', 'ready', 'failed', 'archived'))"
    )
    op.execute("ALTER TABLE versions DROP CONSTRAINT versions_genesis_check")
    op.execute(
        "ALTER TABLE versions ADD CONSTRAINT versions_genesis_check CHECK (number > 0 OR kind = 'base')"
    )


def downgrade() -> None:
    """Refuse: older releases do not know what may be there.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("This revision is not undone: restore a backup that was made before it.")

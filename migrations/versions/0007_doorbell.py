"""Workers claim the next job of their model: no outbox, no turns, a lock for one solver at a time."""

from __future__ import annotations

from alembic import op

revision = "0007_doorbell"
down_revision = "0006_intervals"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop what passed jobs on one by one, and note who solves for a model."""
    op.execute("DROP TABLE outbox")
    op.execute("DROP FUNCTION announce_outbox()")
    op.execute("ALTER TABLE jobs DROP COLUMN overtaken")
    op.execute("ALTER TABLE heads ADD COLUMN solving_job text, ADD COLUMN solving_fence integer")
    op.execute("DROP INDEX jobs_unfinished_idx")
    op.execute("CREATE INDEX jobs_unfinished_idx ON jobs (model_id, waiting_since) WHERE finished_at IS NULL")


def downgrade() -> None:
    """Refuse: messages that were waiting are not there any more.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("This revision is not undone: restore a backup that was made before it.")

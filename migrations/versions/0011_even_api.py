"""Any POST may be repeated under an Idempotency-Key; keys expire; withdrawals are listed; models are fetched later.

Idempotency keys keep the first answer for a day.
"""

from __future__ import annotations

from alembic import op

revision = "0011_even_api"
down_revision = "0010_archived_models"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; a checkpoint that was not read yet has neither architecture nor digest."""
    op.execute("ALTER TABLE keys ADD COLUMN expires_at timestamptz, ADD COLUMN last_used_at timestamptz")
    op.execute("ALTER TABLE withdrawals ADD COLUMN seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE")
    op.execute("ALTER TABLE idempotency_keys ALTER COLUMN edit_set_id DROP NOT NULL, ADD COLUMN answer jsonb")
    op.execute("CREATE INDEX ON idempotency_keys (created_at)")
    op.execute("ALTER TABLE models ADD COLUMN asked jsonb, ADD COLUMN progress jsonb")


def downgrade() -> None:
    """Refuse: answers that are kept, and the end of a key, would be lost.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("This revision is not undone: restore a backup that was made before it.")

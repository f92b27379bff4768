"""Those who follow an edit set are notified of its changes; a job keeps when it was last claimed."""

from __future__ import annotations

from alembic import op

revision = "0008_changes"
down_revision = "0007_doorbell"
branch_labels = None
depends_on = None

NOTIFY = """
CREATE FUNCTION notify_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'jobs' THEN
        PERFORM pg_notify('errata_changes', coalesce(NEW.edit_set_id, NEW.withdrawal_id));
    ELSE
        PERFORM pg_notify('errata_changes', NEW.id);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER changed AFTER UPDATE ON jobs FOR EACH ROW
    WHEN ((OLD.stage, OLD.stage_done, OLD.stage_total) IS DISTINCT FROM
          (NEW.stage, NEW.stage_done, NEW.stage_total))
    EXECUTE FUNCTION notify_change();
CREATE TRIGGER changed AFTER UPDATE ON edit_sets FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION notify_change();
CREATE TRIGGER changed AFTER UPDATE ON withdrawals FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION notify_change();
"""


def upgrade() -> None:
    """Add the triggers and the column."""
    op.execute(NOTIFY)
    op.execute("ALTER TABLE jobs ADD COLUMN claimed_at timestamptz")


def downgrade() -> None:
    """Take both away; nothing that is finished rests on them."""
    for table in ("jobs", "edit_sets", "withdrawals"):
        op.execute(f"DROP TRIGGER changed ON {table}")
    op.execute("DROP FUNCTION notify_change()")
    op.execute("ALTER TABLE jobs DROP COLUMN claimed_at")

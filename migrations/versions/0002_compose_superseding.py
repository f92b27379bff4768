"""What facts answer and replace, where they come from, when they expire; edit sets that are only tried."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from ledger.edits.fact_keys import index_keys

revision = "0002_compose"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE questions (
    digest text,
    edit_set_id text,
    position integer,
    PRIMARY KEY (digest, edit_set_id, position),
    FOREIGN KEY (edit_set_id, position) REFERENCES facts
);
CREATE TABLE supersessions (
    older_edit_set_id text,
    older_position integer,
    newer_edit_set_id text,
    newer_position integer,
    PRIMARY KEY (older_edit_set_id, older_position, newer_edit_set_id, newer_position),
    FOREIGN KEY (older_edit_set_id, older_position) REFERENCES facts,
    FOREIGN KEY (newer_edit_set_id, newer_position) REFERENCES facts
);
CREATE INDEX ON supersessions (newer_edit_set_id);
ALTER TABLE version_edit_sets ADD COLUMN superseded integer[] NOT NULL DEFAULT '{}';
ALTER TABLE edit_sets ADD COLUMN on_conflict text NOT NULL DEFAULT 'replace'
    CONSTRAINT edit_sets_on_conflict_check CHECK (on_conflict IN ('replace', 'reject'));
ALTER TABLE edit_sets ADD COLUMN dry_run boolean NOT NULL DEFAULT false;
CREATE TABLE trial_reports (
    edit_set_id text,
    position integer,
    report jsonb NOT NULL,
    PRIMARY KEY (edit_set_id, position),
    FOREIGN KEY (edit_set_id, position) REFERENCES facts
);
INSERT INTO legal_transitions (old, new) VALUES ('verifying', 'verified');
ALTER TABLE facts
    ADD COLUMN source text,
    ADD COLUMN author text,
    ADD COLUMN ticket text,
    ADD COLUMN note text,
    ADD COLUMN expires_at timestamptz;
CREATE INDEX facts_expires_at_idx ON facts (expires_at) WHERE expires_at IS NOT NULL;
"""
COMMITTED = """
SELECT edit_set_id, position, prompt, subject, rephrasings FROM facts
WHERE edit_set_id IN (SELECT edit_set_id FROM version_edit_sets)
"""
APPEND_ONLY = ("questions", "supersessions", "trial_reports")


def upgrade() -> None:
    """Add the tables, and the questions of what was committed before them."""
    op.execute(TABLES)
    connection = op.get_bind()
    rows = [
        {"digest": digest, "edit_set_id": fact["edit_set_id"], "position": fact["position"]}
        for fact in connection.execute(text(COMMITTED)).mappings()
        for digest in index_keys(fact["prompt"], fact["subject"], fact["rephrasings"])
    ]
    if rows:
        connection.execute(text("INSERT INTO questions VALUES (:digest, :edit_set_id, :position)"), rows)
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        op.execute(
            f"CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    """Refuse: the links between facts would be lost.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("This revision is not undone: restore a backup that was made before it.")

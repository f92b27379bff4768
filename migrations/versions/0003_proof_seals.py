"""Seals: a digest beside each row that no chain covers, so that a change behind the triggers is found."""

from __future__ import annotations

from alembic import op

revision = "0003_proof"
down_revision = "0002_compose"
branch_labels = None
depends_on = None

SEALED = {
    "aliases": "model_id name number updated_at updated_by",
    "audit_events": "id at actor action object detail",
    "blobs": "digest kind size place created_at",
    "edit_sets": (
        "id seq model_id status promote gate edit_on_rephrasings on_conflict dry_run note fact_count "
        "facts_digest statistics_digest version_number report error created_at created_by finished_at"
    ),
    "editors": "digest card created_at",
    "keys": "id seq name scopes digest given created_at created_by revoked_at",
    "models": (
        "id seq source revision architecture context_length modules digest gate status given_editor_digest "
        "editor_digest canaries base_parameters_digest error created_at created_by"
    ),
    "questions": "digest edit_set_id position",
    "supersessions": "older_edit_set_id older_position newer_edit_set_id newer_position",
    "trial_reports": "edit_set_id position report",
    "versions": "model_id number job_id",
    "withdrawals": (
        "id model_id status edit_set_ids fact_ids reason version_number report error created_at created_by "
        "finished_at"
    ),
}
FUNCTIONS = """
CREATE FUNCTION row_seal(content jsonb, columns text[]) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT 'sha256:' || encode(sha256(convert_to(sealed::text, 'UTF8')), 'hex')
    FROM (SELECT jsonb_object_agg(name, content -> name) AS sealed FROM unnest(columns) AS name) AS picked
$$;
CREATE FUNCTION seal_row() RETURNS trigger LANGUAGE plpgsql SET timezone TO 'UTC' AS $$
BEGIN
    NEW.seal := row_seal(to_jsonb(NEW), TG_ARGV[0]::text[]);
    RETURN NEW;
END $$;
"""


def upgrade() -> None:
    """Add the column and its trigger, and seal the rows that are there as they are."""
    op.execute(FUNCTIONS)
    op.execute("SET LOCAL timezone TO 'UTC'")
    for table, names in SEALED.items():
        columns = f"'{{{','.join(names.split())}}}'"
        op.execute(f"ALTER TABLE {table} ADD COLUMN seal text")
        op.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        op.execute(f"UPDATE {table} AS t SET seal = row_seal(to_jsonb(t), {columns})")
        op.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        op.execute(f"ALTER TABLE {table} ALTER COLUMN seal SET NOT NULL")
        op.execute(
            f"CREATE TRIGGER seal BEFORE INSERT OR UPDATE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION seal_row({columns})"
        )


def downgrade() -> None:
    """Refuse: what the seals prove would be lost.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("This revision is not undone: restore a backup that was made before it.")

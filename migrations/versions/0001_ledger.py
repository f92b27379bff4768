"""The ledger: models, edit sets, jobs, versions, keys, and the triggers that guard them.

Constraints are left to PostgreSQL to name, but for checks over several columns.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE blobs (
    digest text PRIMARY KEY CONSTRAINT blobs_digest_check CHECK (digest ~ '^sha256:[0-9a-f]{64}$'),
    kind text NOT NULL CONSTRAINT blobs_kind_check CHECK (kind IN ('editor', 'delta', 'statistics')),
    size bigint NOT NULL,
    place text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE editors (
    digest text PRIMARY KEY REFERENCES blobs,
    card jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE keys (
    id text PRIMARY KEY,
    seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    name text NOT NULL,
    scopes text[] NOT NULL,
    digest text NOT NULL,
    given boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    revoked_at timestamptz
);
CREATE TABLE models (
    id text PRIMARY KEY,
    seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    source text NOT NULL,
    revision text,
    architecture text NOT NULL,
    context_length integer NOT NULL,
    modules text[] NOT NULL,
    digest text NOT NULL,
    gate jsonb NOT NULL,
    status text NOT NULL DEFAULT 'preparing'
        CONSTRAINT models_status_check CHECK (status IN ('preparing', 'ready', 'failed')),
    given_editor_digest text REFERENCES blobs,
    editor_digest text REFERENCES editors,
    canaries jsonb,
    base_parameters_digest text,
    error jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL
);
CREATE TABLE heads (
    model_id text PRIMARY KEY REFERENCES models,
    number integer NOT NULL,
    hash text NOT NULL
);
CREATE TABLE legal_transitions (
    old text,
    new text,
    PRIMARY KEY (old, new)
);
CREATE TABLE edit_sets (
    id text PRIMARY KEY,
    seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    model_id text NOT NULL REFERENCES models,
    status text NOT NULL DEFAULT 'queued',
    promote text NOT NULL CONSTRAINT edit_sets_promote_check CHECK (promote IN ('auto', 'manual')),
    gate jsonb,
    edit_on_rephrasings boolean NOT NULL,
    note text,
    fact_count integer NOT NULL CONSTRAINT edit_sets_fact_count_check CHECK (fact_count > 0),
    facts_digest text NOT NULL,
    statistics_digest text REFERENCES blobs,
    version_number integer,
    report jsonb,
    error jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    finished_at timestamptz
);
CREATE INDEX ON edit_sets (model_id, seq);
CREATE INDEX ON edit_sets (status, seq);
CREATE TABLE facts (
    edit_set_id text REFERENCES edit_sets,
    position integer,
    prompt text NOT NULL,
    target text NOT NULL,
    subject text,
    rephrasings jsonb NOT NULL,
    locality jsonb NOT NULL,
    PRIMARY KEY (edit_set_id, position)
);
CREATE TABLE withdrawals (
    id text PRIMARY KEY,
    model_id text NOT NULL REFERENCES models,
    status text NOT NULL DEFAULT 'queued',
    edit_set_ids text[] NOT NULL,
    fact_ids text[] NOT NULL,
    reason text NOT NULL,
    version_number integer,
    report jsonb,
    error jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    finished_at timestamptz
);
CREATE TABLE jobs (
    id text PRIMARY KEY,
    model_id text NOT NULL REFERENCES models,
    kind text NOT NULL,
    edit_set_id text UNIQUE REFERENCES edit_sets,
    withdrawal_id text UNIQUE REFERENCES withdrawals,
    fence integer NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    holder text,
    lease_expires_at timestamptz,
    waiting_since timestamptz NOT NULL DEFAULT now(),
    stage text,
    stage_done integer NOT NULL DEFAULT 0,
    stage_total integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CONSTRAINT jobs_subject_check CHECK (
        kind = 'edit' AND edit_set_id IS NOT NULL AND withdrawal_id IS NULL
        OR kind = 'withdraw' AND edit_set_id IS NULL AND withdrawal_id IS NOT NULL
    )
);
CREATE INDEX jobs_unfinished_idx ON jobs (waiting_since) WHERE finished_at IS NULL;
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id text NOT NULL REFERENCES jobs,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE versions (
    model_id text REFERENCES models,
    number integer,
    kind text NOT NULL
        CONSTRAINT versions_kind_check CHECK (kind IN ('base', 'edit', 'rollback', 'withdraw')),
    parent integer,
    restores integer,
    edit_set_id text UNIQUE REFERENCES edit_sets,
    job_id text UNIQUE REFERENCES jobs,
    live_fact_count integer NOT NULL,
    base_digest text NOT NULL,
    editor_digest text NOT NULL REFERENCES editors,
    delta_digest text REFERENCES blobs,
    weights_digest text,
    statistics_digest text REFERENCES blobs,
    fact_reports_digest text NOT NULL,
    report jsonb,
    gate_met boolean NOT NULL,
    reason text,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    previous_hash text,
    hash text NOT NULL UNIQUE,
    PRIMARY KEY (model_id, number),
    FOREIGN KEY (model_id, parent) REFERENCES versions,
    FOREIGN KEY (model_id, restores) REFERENCES versions,
    CONSTRAINT versions_edit_set_check CHECK ((kind = 'edit') = (edit_set_id IS NOT NULL)),
    CONSTRAINT versions_restores_check CHECK ((kind = 'rollback') = (restores IS NOT NULL)),
    CONSTRAINT versions_genesis_check CHECK ((number = 0) = (kind = 'base')),
    CONSTRAINT versions_parent_check CHECK ((number = 0) = (parent IS NULL)),
    CONSTRAINT versions_previous_check CHECK ((number = 0) = (previous_hash IS NULL)),
    CONSTRAINT versions_order_check CHECK (parent < number AND restores < number)
);
ALTER TABLE edit_sets ADD FOREIGN KEY (model_id, version_number) REFERENCES versions;
ALTER TABLE withdrawals ADD FOREIGN KEY (model_id, version_number) REFERENCES versions;
CREATE TABLE version_edit_sets (
    model_id text,
    number integer,
    edit_set_id text REFERENCES edit_sets,
    statistics_digest text NOT NULL REFERENCES blobs,
    withdrawn integer[] NOT NULL,
    PRIMARY KEY (model_id, number, edit_set_id),
    FOREIGN KEY (model_id, number) REFERENCES versions
);
CREATE TABLE fact_reports (
    model_id text,
    number integer,
    edit_set_id text,
    position integer,
    report jsonb NOT NULL,
    PRIMARY KEY (model_id, number, edit_set_id, position),
    FOREIGN KEY (model_id, number) REFERENCES versions,
    FOREIGN KEY (edit_set_id, position) REFERENCES facts
);
CREATE INDEX ON fact_reports (edit_set_id, position);
CREATE TABLE aliases (
    model_id text,
    name text,
    number integer NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    updated_by text NOT NULL,
    PRIMARY KEY (model_id, name),
    FOREIGN KEY (model_id, number) REFERENCES versions
);
CREATE TABLE idempotency_keys (
    key_id text,
    idempotency_key text,
    body_digest text NOT NULL,
    edit_set_id text NOT NULL REFERENCES edit_sets DEFERRABLE INITIALLY DEFERRED,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (key_id, idempotency_key)
);
CREATE TABLE audit_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL,
    object text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'::jsonb
);
CREATE INDEX ON audit_events (object);
"""

APPEND_ONLY = (
    "audit_events",
    "blobs",
    "editors",
    "fact_reports",
    "facts",
    "version_edit_sets",
    "versions",
)
REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$;
"""

LEGAL_TRANSITIONS = """
INSERT INTO legal_transitions (old, new) VALUES
    ('queued', 'running'), ('queued', 'cancelled'), ('queued', 'failed'),
    ('running', 'verifying'), ('running', 'queued'), ('running', 'failed'), ('running', 'cancelled'),
    ('verifying', 'applied'), ('verifying', 'rejected'), ('verifying', 'failed'), ('verifying', 'queued'),
    ('verifying', 'cancelled'),
    ('applied', 'withdrawn'), ('withdrawn', 'applied'), ('rejected', 'applied');
"""
GUARD_STATUS = """
CREATE FUNCTION guard_status() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    mutable text[] := '{status, statistics_digest, version_number, report, error, finished_at}';
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'queued' THEN
            RAISE EXCEPTION '% starts queued, not %', TG_TABLE_NAME, NEW.status
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.status <> OLD.status AND NOT EXISTS (
        SELECT FROM legal_transitions AS legal WHERE legal.old = OLD.status AND legal.new = NEW.status
    ) THEN
        RAISE EXCEPTION 'illegal transition of % %: % to %', TG_TABLE_NAME, OLD.id, OLD.status, NEW.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'legal_transitions';
    END IF;
    IF to_jsonb(NEW) - mutable IS DISTINCT FROM to_jsonb(OLD) - mutable THEN
        RAISE EXCEPTION 'what % % was made with does not change', TG_TABLE_NAME, OLD.id
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard_status BEFORE INSERT OR UPDATE ON edit_sets
    FOR EACH ROW EXECUTE FUNCTION guard_status();
CREATE TRIGGER guard_status BEFORE INSERT OR UPDATE ON withdrawals
    FOR EACH ROW EXECUTE FUNCTION guard_status();
"""

ANNOUNCE = """
CREATE FUNCTION announce_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('errata_outbox', '');
    RETURN NULL;
END $$;
CREATE TRIGGER announce AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION announce_outbox();
"""


def upgrade() -> None:
    """Make every table, then the guards over them."""
    for script in (TABLES, REFUSE_CHANGE, LEGAL_TRANSITIONS, GUARD_STATUS, ANNOUNCE):
        op.execute(script)
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
    """Refuse: going below the first revision would delete the ledger.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("The first revision is not undone: drop the database to remove the ledger.")

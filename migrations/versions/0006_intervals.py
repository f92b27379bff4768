"""Memberships as intervals of versions, in place of a row for each edit set of each version.

Every chain is verified as it was made, before anything is changed, and again from the intervals.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from alembic import op
from sqlalchemy import Connection, text

from ledger.integrity import chain, set_digest
from ledger.records import Member, VersionRecord

revision = "0006_intervals"
down_revision = "0005_no_seals"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE memberships (
    model_id text,
    edit_set_id text REFERENCES edit_sets,
    from_version integer,
    to_version integer,
    statistics_digest text NOT NULL REFERENCES blobs,
    withdrawn integer[] NOT NULL,
    superseded integer[] NOT NULL,
    PRIMARY KEY (model_id, edit_set_id, from_version),
    FOREIGN KEY (model_id, from_version) REFERENCES versions,
    FOREIGN KEY (model_id, to_version) REFERENCES versions,
    CONSTRAINT memberships_order_check CHECK (from_version < to_version)
);
CREATE INDEX ON memberships (model_id, from_version);
CREATE INDEX ON memberships (model_id, to_version);
ALTER TABLE versions ADD COLUMN members_digest text, ADD COLUMN edit_set_count integer;
ALTER TABLE heads ADD COLUMN members_state bytea;
"""
GUARDS = """
CREATE FUNCTION end_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.to_version IS NOT NULL OR NEW.to_version IS NULL
        OR to_jsonb(NEW) - 'to_version' IS DISTINCT FROM to_jsonb(OLD) - 'to_version' THEN
        RAISE EXCEPTION 'memberships are append-only but for their end: % refused', TG_OP
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER ended_once BEFORE UPDATE OR DELETE ON memberships
    FOR EACH ROW EXECUTE FUNCTION end_once();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON memberships
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
DROP TABLE version_edit_sets;
"""
COUNTED = """
ALTER TABLE versions DISABLE TRIGGER append_only;
UPDATE versions SET edit_set_count = (
    SELECT count(*) FROM memberships AS held
    WHERE held.model_id = versions.model_id AND held.from_version <= versions.number
    AND (held.to_version IS NULL OR held.to_version > versions.number)
);
ALTER TABLE versions ENABLE TRIGGER append_only;
ALTER TABLE versions ALTER COLUMN edit_set_count SET NOT NULL;
ALTER TABLE heads ALTER COLUMN members_state SET NOT NULL;
"""
ROWS = """
SELECT held.number, held.edit_set_id, held.statistics_digest, held.withdrawn, held.superseded,
    edit_sets.fact_count, edit_sets.facts_digest
FROM version_edit_sets AS held JOIN edit_sets ON edit_sets.id = held.edit_set_id
WHERE held.model_id = :model ORDER BY held.number
"""
INTERVALS = """
SELECT held.from_version, held.to_version, held.edit_set_id, held.statistics_digest, held.withdrawn,
    held.superseded, edit_sets.fact_count, edit_sets.facts_digest
FROM memberships AS held JOIN edit_sets ON edit_sets.id = held.edit_set_id WHERE held.model_id = :model
"""
INSERT = """
INSERT INTO memberships VALUES
    (:model_id, :edit_set_id, :from_version, :to_version, :statistics_digest, :withdrawn, :superseded)
"""
Held = dict[str, Member]


def upgrade() -> None:
    """Carry every model's history over.

    Raises:
        RuntimeError: a version does not hash to what is recorded, before or after.
    """
    connection = op.get_bind()
    op.execute(TABLES)
    for (model_id,) in connection.execute(text("SELECT id FROM models ORDER BY seq")).all():
        versions = _versions(connection, model_id)
        held = _held_by_row(connection, model_id)
        _verify(versions, held, "before it was carried over")
        rows = _intervals(model_id, versions, held)
        if rows:
            connection.execute(text(INSERT), rows)
        _verify(versions, _held_by_interval(connection, model_id, versions), "after it was carried over")
        newest = held[versions[-1].number].values() if versions else ()
        state = set_digest.update(set_digest.EMPTY, map(chain.member_content, newest), ())
        setting = text("UPDATE heads SET members_state = :state WHERE model_id = :model")
        connection.execute(setting, {"state": state, "model": model_id})
    op.execute(COUNTED)
    op.execute(GUARDS)


def _versions(connection: Connection, model_id: str) -> list[VersionRecord]:
    query = text("SELECT * FROM versions WHERE model_id = :model ORDER BY number")
    names = VersionRecord.__dataclass_fields__.keys() - {"aliases"}
    return [
        VersionRecord(**{name: row[name] for name in names if name != "edit_set_count"}, edit_set_count=0)
        for row in connection.execute(query, {"model": model_id}).mappings()
    ]


def _member(row: Any) -> Member:
    left_out = tuple(row.withdrawn), tuple(row.superseded)
    return Member(row.edit_set_id, row.statistics_digest, *left_out, row.fact_count, row.facts_digest)


def _held_by_row(connection: Connection, model_id: str) -> defaultdict[int, Held]:
    held: defaultdict[int, Held] = defaultdict(dict)
    for row in connection.execute(text(ROWS), {"model": model_id}):
        held[row.number][row.edit_set_id] = _member(row)
    return held


def _held_by_interval(
    connection: Connection, model_id: str, versions: list[VersionRecord]
) -> defaultdict[int, Held]:
    rows = connection.execute(text(INTERVALS), {"model": model_id}).all()
    held: defaultdict[int, Held] = defaultdict(dict)
    for row in rows:
        end = len(versions) if row.to_version is None else row.to_version
        for number in range(row.from_version, end):
            held[number][row.edit_set_id] = _member(row)
    return held


def _intervals(
    model_id: str, versions: list[VersionRecord], held: defaultdict[int, Held]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    current: dict[str, tuple[Member, dict[str, Any]]] = {}
    for version in versions:
        members = held[version.number]
        for ident in [ident for ident, (member, _) in current.items() if members.get(ident) != member]:
            current.pop(ident)[1]["to_version"] = version.number
        for ident in members.keys() - current.keys():
            member = members[ident]
            row = {
                "model_id": model_id,
                "edit_set_id": ident,
                "from_version": version.number,
                "to_version": None,
                "statistics_digest": member.statistics_digest,
                "withdrawn": list(member.withdrawn),
                "superseded": list(member.superseded),
            }
            current[ident] = member, row
            rows.append(row)
    return rows


def _verify(versions: list[VersionRecord], held: defaultdict[int, Held], when: str) -> None:
    previous = None
    for number, version in enumerate(versions):
        again = chain.first_version_hash(version, held[version.number].values())
        if (version.number, version.previous_hash, version.hash) != (number, previous, again):
            raise RuntimeError(
                f"Version {version.number} of {version.model_id!r} does not verify {when}. Nothing was "
                "changed: run `errata ledger verify` of the release before, and restore what it names."
            )
        previous = version.hash


def downgrade() -> None:
    """Refuse: versions made since are hashed over their change alone.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("This revision is not undone: restore a backup that was made before it.")

"""Seals: PostgreSQL writes a digest beside each row that the chain does not cover; here they are checked.

The chain proves what versions hold, even against one who rewrites rows and their digests. A seal proves less:
that a row is as it was last written through the database's own triggers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session


@dataclass(frozen=True)
class Sealed:
    """A sealed table.

    Attributes:
        table: its name.
        place: SQL for the place of the object that a row is of.
    """

    table: str
    place: str


FACT = "'edits/' || edit_set_id || '/facts/' || position"
TABLES = (
    Sealed("aliases", "'models/' || model_id || '/aliases/' || name"),
    Sealed("audit_events", "'audit_events/' || id"),
    Sealed("blobs", "'blobs/' || digest"),
    Sealed("edit_sets", "'edits/' || id"),
    Sealed("editors", "'editors/' || digest"),
    Sealed("keys", "'keys/' || id"),
    Sealed("models", "'models/' || id"),
    Sealed("questions", FACT),
    Sealed("supersessions", "'edits/' || older_edit_set_id || '/facts/' || older_position"),
    Sealed("trial_reports", FACT),
    Sealed("versions", "'models/' || model_id || '/versions/' || number"),
    Sealed("withdrawals", "'withdrawals/' || id"),
)
COLUMNS = """
SELECT relname, convert_from(substring(tgargs FOR length(tgargs) - 1), 'UTF8')
FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE tgname = 'seal' AND relnamespace = current_schema()::regnamespace
"""


def broken(session: Session) -> Iterator[str]:
    """Yield the place of each row whose content is not what its seal was made of.

    The session's time zone is set to UTC until its transaction ends, since seals are.
    """
    session.execute(text("SET LOCAL timezone TO 'UTC'"))
    columns = {str(table): str(names) for table, names in session.execute(text(COLUMNS))}
    for sealed in TABLES:
        query = (
            f"SELECT {sealed.place} FROM {sealed.table} AS t "
            "WHERE seal IS DISTINCT FROM row_seal(to_jsonb(t), CAST(:columns AS text[])) ORDER BY 1"
        )
        yield from session.scalars(text(query), {"columns": columns[sealed.table]})

"""Guards: what keeps rows from being changed unseen, compared with what the migrations set up."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from ledger.db.tables import LegalTransition
from ledger.records import LedgerProblem
from ledger.states import LEGAL_TRANSITIONS

APPEND_ONLY = (
    "audit_events",
    "blobs",
    "editors",
    "fact_reports",
    "facts",
    "questions",
    "supersessions",
    "trial_reports",
    "versions",
)
TRIGGERS = frozenset(
    {(table, name) for table in APPEND_ONLY for name in ("append_only", "append_only_whole")}
    | {("memberships", name) for name in ("ended_once", "append_only_whole")}
    | {(table, "guard_status") for table in ("edit_sets", "withdrawals")}
)
FIRING = """
SELECT relname, tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE tgenabled IN ('O', 'A') AND relnamespace = current_schema()::regnamespace
"""
KEPT = " UNION ALL ".join(
    f"SELECT {place} FROM {table}"
    for table, place in (
        ("aliases", "'models/' || model_id || '/aliases/' || name"),
        ("editors", "'editors/' || digest"),
        ("edit_sets", "'edits/' || id"),
        ("keys", "'keys/' || id"),
        ("models", "'models/' || id"),
        ("versions", "'models/' || model_id || '/versions/' || number"),
        ("withdrawals", "'withdrawals/' || id"),
    )
)
GONE = f"""
SELECT object FROM (
    SELECT DISTINCT ON (object) object, action FROM audit_events ORDER BY object, id DESC
) AS latest WHERE action <> 'alias.remove'
UNION SELECT 'withdrawals/' || (detail ->> 'withdrawal') FROM audit_events WHERE action = 'model.withdraw'
EXCEPT ({KEPT})
ORDER BY 1
"""
NOT_LIVE = """
SELECT 'models/' || id FROM models WHERE status = 'ready'
AND NOT EXISTS (SELECT FROM aliases WHERE model_id = id AND aliases.name = 'live') ORDER BY 1
"""


def problems(session: Session) -> Iterator[LedgerProblem]:
    """Yield what is off: guards that do not stand, and rows that must be there and are not."""
    standing = {(table, name) for table, name in session.execute(text(FIRING))}
    for table, name in sorted(TRIGGERS - standing):
        yield LedgerProblem("guard-off", table, f"its trigger {name} is disabled or gone")
    allowed = {
        (row.old, row.new) for row in session.execute(select(LegalTransition.old, LegalTransition.new))
    }
    for old, new in sorted(allowed ^ LEGAL_TRANSITIONS):
        what = "is allowed and should not be" if (old, new) in allowed else "should be allowed and is not"
        yield LedgerProblem("transitions-differ", "legal_transitions", f"{old} to {new} {what}")
    for place in session.scalars(text(GONE)):
        yield LedgerProblem("row-missing", place, "audit events name it, and it is not there")
    for place in session.scalars(text(NOT_LIVE)):
        yield LedgerProblem("live-missing", place, "the model is ready, and no version of it is live")

"""The statuses of models, edit sets and withdrawals, and which may follow which.

The same table stands in the database (`legal_transitions`), where a trigger enforces it; a test compares
the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

ModelStatus = Literal["preparing", "ready", "failed", "archived"]
EditSetStatus = Literal[
    "queued", "running", "verifying", "applied", "rejected", "failed", "cancelled", "withdrawn", "verified"
]
FactState = EditSetStatus | Literal["live", "superseded"]
"""Of a fact in the live version's edit sets: whether the version holds it; of others, the status of their set."""
VersionKind = Literal["base", "edit", "rollback", "withdraw"]
JobKind = Literal["edit", "withdraw"]
Promote = Literal["auto", "manual"]
OnConflict = Literal["replace", "reject"]
Joiner = Literal["auto", " ", ""]

FINAL_STATUSES: frozenset[str] = frozenset(
    {"applied", "rejected", "failed", "cancelled", "withdrawn", "verified"}
)

WORDS: Mapping[str, str] = {
    "verifying": "running",
    "applied": "succeeded",
    "withdrawn": "succeeded",
    "verified": "succeeded",
}
"""Statuses of the ledger that clients are told in a word for several; whether a set is live they are told beside."""


def told(status: str) -> str:
    """Return a status as clients are told it."""
    return WORDS.get(status, status)


LEGAL_TRANSITIONS: frozenset[tuple[str, str]] = frozenset(
    {
        ("queued", "running"),
        ("queued", "cancelled"),
        ("queued", "failed"),
        ("running", "verifying"),
        ("running", "queued"),
        ("running", "failed"),
        ("running", "cancelled"),
        ("verifying", "applied"),
        ("verifying", "rejected"),
        ("verifying", "failed"),
        ("verifying", "queued"),
        ("verifying", "cancelled"),
        ("verifying", "verified"),  # a dry run, which ends there
        ("applied", "withdrawn"),
        ("withdrawn", "applied"),  # a rollback brought it back
        ("rejected", "applied"),  # made live by force, with a reason
    }
)

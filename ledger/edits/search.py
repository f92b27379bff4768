"""Finding facts among those of all edit sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Select, all_, and_, false, func, not_, select, tuple_
from sqlalchemy.orm import Session

from ledger.db import cursors
from ledger.db.tables import Alias, EditSet, Fact, Membership
from ledger.edits import edit_sets, facts
from ledger.records import FoundFact, Page
from ledger.states import FactState
from ledger.versions import members, versions

HELD = func.coalesce(
    and_(
        Membership.edit_set_id.is_not(None),
        Fact.position != all_(Membership.withdrawn),
        Fact.position != all_(Membership.superseded),
    ),
    false(),
)
POSITIONS = 2**24
"""More than any edit set has facts: an edit set's number and a position make one number."""


def search(
    session: Session,
    limit: int = 50,
    cursor: str | None = None,
    *,
    model_id: str | None = None,
    text: str | None = None,
    live: bool | None = None,
    parts: bool = False,
    **members_are: str | None,
) -> Page[FoundFact]:
    """Return a page of the facts of all models, those accepted last first.

    Args:
        session: the transaction.
        limit: facts of a page.
        cursor: of the page before, or None.
        model_id: only this model's.
        text: only those with this in prompt, target, subject, question or note, whatever its case.
        live: only those that a live version holds, or only others.
        parts: `members_are` are parts of the values, whatever their case.
        members_are: only those of this subject, source, author, ticket.

    Raises:
        InvalidCursor: the cursor is not one of this list.
    """
    query = _with_membership()
    if model_id is not None:
        query = query.where(EditSet.model_id == model_id)
    if text is not None:
        query = query.where(edit_sets.says(edit_sets.FACT_TEXTS, text))
    if live is not None:
        query = query.where(HELD if live else not_(HELD))
    for name, value in members_are.items():
        if value is not None:
            column = getattr(Fact, name)
            query = query.where(edit_sets.says((column,), value) if parts else column == value)
    limit, after = cursors.clamp(limit), cursors.decode("facts", cursor, 64)
    if after is not None:
        query = query.where(tuple_(EditSet.seq, Fact.position) < tuple_(*divmod(after, POSITIONS)))
    rows = session.execute(query.order_by(EditSet.seq.desc(), Fact.position.desc()).limit(limit + 1)).all()
    last = rows[limit - 1] if len(rows) > limit else None
    place = None if last is None else last.EditSet.seq * POSITIONS + last.Fact.position
    return Page(tuple(map(_found, rows[:limit])), None if place is None else cursors.encode("facts", place))


def _with_membership() -> Select[*tuple[Any, ...]]:
    """All facts, each with its edit set and with that set's membership in the live version, if it has one."""
    live = and_(Alias.model_id == EditSet.model_id, Alias.name == versions.LIVE)
    held = and_(
        Membership.model_id == EditSet.model_id,
        Membership.edit_set_id == EditSet.id,
        members.covers(Membership, Alias.number),
    )
    query = select(Fact, EditSet, Membership).join(EditSet, EditSet.id == Fact.edit_set_id)
    return query.outerjoin(Alias, live).outerjoin(Membership, held)


def _found(row: Any) -> FoundFact:
    member, position = row.Membership, row.Fact.position
    state: FactState = row.EditSet.status
    if member is not None:
        held: FactState = "superseded" if position in member.superseded else "live"
        state = "withdrawn" if position in member.withdrawn else held
    return FoundFact(
        fact=replace(facts.record(row.Fact), live=state == "live"),
        state=state,
        model_id=row.EditSet.model_id,
        created_at=row.EditSet.created_at,
        created_by=row.EditSet.created_by,
    )

"""Finding facts among those of all edit sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import all_, and_, false, func, not_, or_, select
from sqlalchemy.orm import Session

from ledger.db import cursors
from ledger.db.tables import Alias, EditSet, Fact, Membership
from ledger.edits import facts
from ledger.records import FoundFact, Page
from ledger.states import FactState
from ledger.versions import members, versions


def search(
    session: Session,
    limit: int = 50,
    cursor: str | None = None,
    *,
    q: str | None = None,
    subject: str | None = None,
    author: str | None = None,
    source: str | None = None,
    ticket: str | None = None,
    model_id: str | None = None,
    live: bool | None = None,
) -> Page[FoundFact]:
    """Return a page of facts that hold some text, whatever its case; those of the newest edit sets first.

    Args:
        session: the transaction.
        limit: facts of a page.
        cursor: of the page before, or None.
        q: part of the prompt, the target, the subject or the question.
        subject: part of the subject.
        author: part of the author.
        source: part of the source.
        ticket: part of the ticket.
        model_id: only this model's.
        live: only those that the live version of their model holds, or does not hold.

    Raises:
        InvalidCursor: the cursor is not one of this list.
    """
    query = (
        select(Fact, EditSet, Membership)
        .join(EditSet, EditSet.id == Fact.edit_set_id)
        .outerjoin(Alias, and_(Alias.model_id == EditSet.model_id, Alias.name == versions.LIVE))
        .outerjoin(
            Membership,
            and_(
                Membership.model_id == EditSet.model_id,
                Membership.edit_set_id == EditSet.id,
                members.covers(Membership, Alias.number),
            ),
        )
    )
    if q:
        texts = (Fact.prompt, Fact.target, Fact.subject, Fact.question)
        query = query.where(or_(*(text.icontains(q, autoescape=True) for text in texts)))
    parts = ((Fact.subject, subject), (Fact.author, author), (Fact.source, source), (Fact.ticket, ticket))
    for column, part in parts:
        if part:
            query = query.where(column.icontains(part, autoescape=True))
    if model_id:
        query = query.where(EditSet.model_id == model_id)
    if live is not None:
        held = and_(
            Membership.edit_set_id.is_not(None),
            Fact.position != all_(Membership.withdrawn),
            Fact.position != all_(Membership.superseded),
        )
        query = query.where(held if live else not_(func.coalesce(held, false())))
    limit, shown = cursors.clamp(limit), cursors.decode("found facts", cursor, 32) or 0
    ordered = query.order_by(EditSet.seq.desc(), Fact.position).offset(shown).limit(limit + 1)
    rows = session.execute(ordered).all()
    following = cursors.encode("found facts", shown + limit) if len(rows) > limit else None
    found = tuple(map(_found, rows[:limit]))
    return Page(found, following)


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

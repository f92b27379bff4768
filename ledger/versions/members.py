"""Which edit sets each version holds.

A membership is an interval of version numbers, `from_version` to the number before `to_version`, or to the
newest while that is null. A version opens and closes intervals relative to the version numbered one less, so
that it costs what it changes, however many edit sets it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, insert, or_, select, update
from sqlalchemy.orm import Session

from ledger.db import cursors, queries
from ledger.db.tables import EditSet, Membership
from ledger.records import Member, Page

Change = Mapping[str, Member | None]
"""What a version changes, by edit set: its member from there on, or None where it goes."""


Difference = Mapping[str, tuple[Member | None, Member | None]]
"""Of the edit sets that differ between two versions, the member in the one and in the other."""


def moved(difference: Difference) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Return the facts that only the first version holds, and those that only the second does."""
    pairs = [(ident, _held(before), _held(after)) for ident, (before, after) in sorted(difference.items())]
    leave = [(ident, place) for ident, here, there in pairs for place in sorted(here - there)]
    come = [(ident, place) for ident, here, there in pairs for place in sorted(there - here)]
    return leave, come


def _held(member: Member | None) -> set[int]:
    return set() if member is None else set(range(member.fact_count)) - set(member.left_out)


def covers(row: Any, number: Any) -> ColumnElement[bool]:
    """Say that a membership (the table or an alias of it) holds at a version's number."""
    return and_(row.from_version <= number, or_(row.to_version.is_(None), row.to_version > number))


def _select(model_id: str) -> Select[*tuple[Any, ...]]:
    return (
        select(
            Membership.edit_set_id,
            Membership.statistics_digest,
            Membership.withdrawn,
            Membership.superseded,
            EditSet.fact_count,
            EditSet.facts_digest,
            EditSet.edit_on_rephrasings,
            EditSet.seq,
            Membership.from_version,
            Membership.to_version,
        )
        .join(EditSet, EditSet.id == Membership.edit_set_id)
        .where(Membership.model_id == model_id)
    )


def _member(row: Any) -> Member:
    ident, statistics, withdrawn, superseded, *known = row[:7]
    return Member(ident, statistics, tuple(withdrawn), tuple(superseded), *known)


def at(
    session: Session, model_id: str, number: int, edit_set_ids: Iterable[str] | None = None
) -> dict[str, Member]:
    """Return the members of a version by edit set, or those of them that belong to some edit sets."""
    query = _select(model_id).where(covers(Membership, number))
    if edit_set_ids is not None:
        query = query.where(queries.one_of(Membership.edit_set_id, edit_set_ids))
    found = session.execute(query.order_by(Membership.edit_set_id))
    return {row.edit_set_id: _member(row) for row in found}


def intervals(session: Session, edit_set_id: str) -> list[tuple[int, int | None, Member]]:
    """Return what became of an edit set from version to version: from which on, up to without which, and how."""
    model_id = session.scalar(select(EditSet.model_id).where(EditSet.id == edit_set_id)) or ""
    query = _select(model_id).where(Membership.edit_set_id == edit_set_id)
    found = session.execute(query.order_by(Membership.from_version))
    return [(row.from_version, row.to_version, _member(row)) for row in found]


def difference(session: Session, model_id: str, before: int, after: int) -> Difference:
    """Return by edit set the members that differ between two versions, as they are in the one and the other.

    Only memberships that begin or end between the two are read.
    """
    low, high = sorted((before, after))
    between = or_(
        and_(Membership.from_version > low, Membership.from_version <= high),
        and_(Membership.to_version > low, Membership.to_version <= high),
    )
    found: dict[str, list[Member | None]] = {}
    for row in session.execute(_select(model_id).where(between)).all() if low < high else ():
        at_number = found.setdefault(row.edit_set_id, [None, None])
        for side, number in enumerate((before, after)):
            if row.from_version <= number and (row.to_version is None or row.to_version > number):
                at_number[side] = _member(row)
    return {ident: (one, other) for ident, (one, other) in found.items() if one != other}


def changes(session: Session, model_id: str, since: int | None, number: int) -> Change:
    """Return what to change in a version's members to have another's; all of them for `since` None."""
    if since is None:
        return dict(at(session, model_id, number))
    return {ident: after for ident, (_, after) in difference(session, model_id, since, number).items()}


def page(session: Session, model_id: str, number: int, limit: int, cursor: str | None) -> Page[Member]:
    """Return a page of a version's members, in the order in which their edit sets were accepted.

    Raises:
        InvalidCursor: the cursor is not one of this list.
    """
    listing = f"members {model_id} {number}"
    limit, after = cursors.clamp(limit), cursors.decode(listing, cursor, 64)
    query = _select(model_id).where(covers(Membership, number))
    if after is not None:
        query = query.where(EditSet.seq > after)
    rows = session.execute(query.order_by(EditSet.seq).limit(limit + 1)).all()
    following = cursors.encode(listing, rows[limit - 1].seq) if len(rows) > limit else None
    return Page(tuple(_member(row) for row in rows[:limit]), following)


def write(
    session: Session, model_id: str, number: int, closed: Iterable[Member], opened: Iterable[Member]
) -> None:
    """End and begin memberships with a version; its row must be there."""
    gone = [member.edit_set_id for member in closed]
    if gone:
        session.execute(
            update(Membership)
            .where(
                Membership.model_id == model_id,
                queries.one_of(Membership.edit_set_id, gone),
                Membership.to_version.is_(None),
            )
            .values(to_version=number)
            .execution_options(synchronize_session=False)
        )
    come = [
        {
            "model_id": model_id,
            "edit_set_id": member.edit_set_id,
            "from_version": number,
            "statistics_digest": member.statistics_digest,
            "withdrawn": list(member.withdrawn),
            "superseded": list(member.superseded),
        }
        for member in opened
    ]
    if come:
        session.execute(insert(Membership), come)

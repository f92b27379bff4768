"""Conflicts: of the facts of a version that answer one question, the one that was accepted last holds.

Which facts those are follows from the version's members alone, so a fact that was superseded comes back,
exactly, once the newer one is withdrawn. Only what a change touches is looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session, aliased

from ledger.db import queries
from ledger.db.tables import EditSet, Membership, Question, Supersession
from ledger.edits.fact_keys import index_keys, lookup_keys
from ledger.errors import FactConflict
from ledger.ids import fact_id, parse_fact_id
from ledger.records import FactRecord, Member
from ledger.versions import members, versions
from ledger.versions.members import Change

Place = tuple[str, int]
Older, Newer = aliased(Membership), aliased(Membership)


@dataclass(frozen=True, order=True)
class Link:
    """Two facts that answer one question, by edit set and position; the older was accepted first."""

    older: Place
    newer: Place


def link(session: Session, edit_set: EditSet, facts: Sequence[FactRecord], number: int) -> None:
    """Note the keys of an edit set's facts, and which facts of a version answer the same; idempotent.

    Args:
        session: the transaction.
        edit_set: the set to be applied.
        facts: all of its facts.
        number: the version that it is to be added to.
    """
    keys = [
        {"digest": digest, "edit_set_id": edit_set.id, "position": fact.position}
        for fact in facts
        for digest in index_keys(fact.prompt, fact.subject, fact.rephrasings)
    ]
    session.execute(postgresql.insert(Question).on_conflict_do_nothing(), keys)
    asked = [(fact.position, lookup_keys(fact.prompt, fact.subject, fact.rephrasings)) for fact in facts]
    found = []
    for position, other, seq in _same_question(session, edit_set.model_id, number, asked):
        own = (edit_set.id, position)
        older, newer = (other, own) if seq < edit_set.seq else (own, other)
        found.append(
            {
                "older_edit_set_id": older[0],
                "older_position": older[1],
                "newer_edit_set_id": newer[0],
                "newer_position": newer[1],
            }
        )
    if found:
        session.execute(postgresql.insert(Supersession).on_conflict_do_nothing(), found)


def _same_question(
    session: Session, model_id: str, number: int, asked: Sequence[tuple[int, Collection[str]]], **only: bool
) -> list[tuple[int, Place, int]]:
    """Return the facts of a version's edit sets that answer what new facts ask.

    Returns:
        position of the new fact, place of the other, and the number under which its set was accepted. With
        `live=True`, only of those that are not left out of the version.
    """
    by_digest: defaultdict[str, set[int]] = defaultdict(set)
    for position, digests in asked:
        for digest in digests:
            by_digest[digest].add(position)
    query = (
        select(Question, EditSet.seq, Membership.withdrawn, Membership.superseded)
        .join(EditSet, EditSet.id == Question.edit_set_id)
        .join(Membership, Membership.edit_set_id == Question.edit_set_id)
        .where(
            queries.one_of(Question.digest, by_digest),
            Membership.model_id == model_id,
            members.covers(Membership, number),
        )
    )
    return sorted(
        {
            (position, (row.edit_set_id, row.position), seq)
            for row, seq, withdrawn, superseded in session.execute(query)
            for position in by_digest[row.digest]
            if not only or row.position not in (*withdrawn, *superseded)
        }
    )


def _links(session: Session, model_id: str, number: int, which: ColumnElement[bool]) -> list[Link]:
    """Return the links between facts of a version, those aside that are withdrawn from it."""
    query = (
        select(Supersession, Older.withdrawn, Newer.withdrawn)
        .join(Older, Older.edit_set_id == Supersession.older_edit_set_id)
        .join(Newer, Newer.edit_set_id == Supersession.newer_edit_set_id)
        .where(
            which,
            and_(Older.model_id == model_id, members.covers(Older, number)),
            and_(Newer.model_id == model_id, members.covers(Newer, number)),
        )
    )
    return sorted(
        Link((row.older_edit_set_id, row.older_position), (row.newer_edit_set_id, row.newer_position))
        for row, older_withdrawn, newer_withdrawn in session.execute(query)
        if row.older_position not in older_withdrawn and row.newer_position not in newer_withdrawn
    )


def _touching(edit_set_ids: Iterable[str]) -> ColumnElement[bool]:
    wanted = list(edit_set_ids)
    return or_(
        queries.one_of(Supersession.older_edit_set_id, wanted),
        queries.one_of(Supersession.newer_edit_set_id, wanted),
    )


def with_own(session: Session, model_id: str, number: int, own: Member) -> tuple[Change, list[Link]]:
    """Return what adding an edit set to a version changes in its members.

    Returns:
        the change, and the links by which facts of the own set replace facts that the version holds.
    """
    found = session.scalars(select(Supersession).where(_touching([own.edit_set_id]))).all()
    pairs = [
        Link((row.older_edit_set_id, row.older_position), (row.newer_edit_set_id, row.newer_position))
        for row in found
    ]
    others = {place[0] for pair in pairs for place in (pair.older, pair.newer)} - {own.edit_set_id}
    held = members.at(session, model_id, number, others) if others else {}
    own_superseded: set[int] = set()
    superseded: defaultdict[str, set[int]] = defaultdict(set)
    replaced = []
    for pair in sorted(pairs):
        other = pair.newer if pair.older[0] == own.edit_set_id else pair.older
        member = held.get(other[0])
        if member is None or other[1] in member.withdrawn:
            continue
        if other == pair.newer:
            own_superseded.add(pair.older[1])
        else:
            superseded[other[0]].add(other[1])
            if other[1] not in member.superseded:
                replaced.append(pair)
    change = {
        ident: replace(held[ident], superseded=tuple(sorted({*held[ident].superseded, *positions})))
        for ident, positions in superseded.items()
    }
    own = replace(own, superseded=tuple(sorted(own_superseded)))
    return {**change, own.edit_set_id: own}, replaced


def without(
    session: Session, model_id: str, number: int, edit_set_ids: Sequence[str], fact_ids: Sequence[str]
) -> Change:
    """Return what taking edit sets and facts out of a version changes; what it does not hold is passed over.

    An edit set of which every fact is withdrawn goes altogether. Facts that one of those withdrawn superseded
    come back, unless another does too.
    """
    positions: defaultdict[str, set[int]] = defaultdict(set)
    for ident in fact_ids:
        named = parse_fact_id(ident)
        if named is not None:
            positions[named[0]].add(named[1])
    away = set(edit_set_ids)
    touched = members.at(session, model_id, number, {*away, *positions})
    change: dict[str, Member | None] = {}
    for ident, member in touched.items():
        withdrawn = {*member.withdrawn, *positions[ident]}
        whole = ident in away or len(withdrawn) >= member.fact_count
        change[ident] = None if whole else replace(member, withdrawn=tuple(sorted(withdrawn)))
    affected = {pair.older[0] for pair in _links(session, model_id, number, _touching(touched))}
    affected = {ident for ident in {*affected, *touched} if change.get(ident, True) is not None}
    olders = _links(session, model_id, number, queries.one_of(Supersession.older_edit_set_id, affected))
    superseded: defaultdict[str, set[int]] = defaultdict(set)
    for pair in olders:
        if _stays(change, pair.older) and _stays(change, pair.newer):
            superseded[pair.older[0]].add(pair.older[1])
    held = members.at(session, model_id, number, affected)
    for ident, member in held.items():
        now = change.get(ident) or member
        change[ident] = replace(now, superseded=tuple(sorted(superseded[ident])))
    return {ident: member for ident, member in change.items() if member is None or member != held[ident]}


def _stays(change: Change, place: Place) -> bool:
    """Whether a fact that a version holds is still there after a change."""
    if place[0] not in change:
        return True
    member = change[place[0]]
    return member is not None and place[1] not in member.withdrawn


def refuse_conflicts(session: Session, model_id: str, facts: Sequence[Mapping[str, Any]]) -> None:
    """See that no fact of an edit set answers what a live fact of the model does.

    Raises:
        FactConflict: naming each that does, and the live fact.
    """
    asked = [
        (position, lookup_keys(fact["prompt"], fact["subject"], fact["rephrasings"]))
        for position, fact in enumerate(facts)
    ]
    number = versions.live_number(session, model_id)
    found = {
        position: fact_id(*other)
        for position, other, _ in _same_question(session, model_id, number, asked, live=True)
    }
    if found:
        raise FactConflict(found)


def of_facts(
    session: Session, model_id: str, number: int, edit_set_id: str
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Return by position in an edit set the facts of a version that supersede it, and those it does."""
    by: defaultdict[int, list[str]] = defaultdict(list)
    over: defaultdict[int, list[str]] = defaultdict(list)
    for pair in _links(session, model_id, number, _touching([edit_set_id])):
        if pair.older[0] == edit_set_id:
            by[pair.older[1]].append(fact_id(*pair.newer))
        if pair.newer[0] == edit_set_id:
            over[pair.newer[1]].append(fact_id(*pair.older))
    return by, over

"""Superseding: of the facts of a version that answer one question, the one that was accepted last holds.

Which facts those are follows from the version's members alone, so a fact that was superseded comes back,
exactly, once the newer one is withdrawn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from ledger.db import queries
from ledger.db.tables import EditSet, Question, Supersession
from ledger.edits.fact_keys import index_keys, lookup_keys
from ledger.errors import FactConflict
from ledger.ids import fact_id
from ledger.records import FactRecord, Member
from ledger.versions import versions

Place = tuple[str, int]


@dataclass(frozen=True, order=True)
class Link:
    """Two facts that answer one question, by edit set and position; the older was accepted first."""

    older: Place
    newer: Place


def link(session: Session, edit_set: EditSet, facts: Sequence[FactRecord], members: Sequence[Member]) -> None:
    """Note the questions of an edit set's facts, and which facts of the members answer the same; idempotent.

    Args:
        session: the transaction.
        edit_set: the set to be applied.
        facts: all of its facts.
        members: the version that it is to be added to.
    """
    questions = [
        {"digest": digest, "edit_set_id": edit_set.id, "position": fact.position}
        for fact in facts
        for digest in index_keys(fact.prompt, fact.subject, fact.rephrasings)
    ]
    session.execute(postgresql.insert(Question).on_conflict_do_nothing(), questions)
    asked: list[tuple[int, Collection[str]]] = [
        (fact.position, lookup_keys(fact.prompt, fact.subject, fact.rephrasings)) for fact in facts
    ]
    others = [member.edit_set_id for member in members if member.edit_set_id != edit_set.id]
    order = _order(session, [*others, edit_set.id])
    found = []
    for position, other in _same_question(session, asked, others):
        own = (edit_set.id, position)
        older, newer = sorted((own, other), key=lambda place: order[place[0]])
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


def _order(session: Session, edit_set_ids: Sequence[str]) -> dict[str, int]:
    query = select(EditSet.id, EditSet.seq).where(queries.one_of(EditSet.id, edit_set_ids))
    return {row.id: row.seq for row in session.execute(query)}


def _same_question(
    session: Session, asked: Sequence[tuple[int, Collection[str]]], edit_set_ids: Sequence[str]
) -> list[tuple[int, Place]]:
    """Return the facts of some edit sets that answer what new facts ask: position of the new, place."""
    by_digest: defaultdict[str, set[int]] = defaultdict(set)
    for position, digests in asked:
        for digest in digests:
            by_digest[digest].add(position)
    query = select(Question).where(
        queries.one_of(Question.digest, by_digest), queries.one_of(Question.edit_set_id, edit_set_ids)
    )
    return sorted(
        {
            (position, (row.edit_set_id, row.position))
            for row in session.scalars(query)
            for position in by_digest[row.digest]
        }
    )


def links(session: Session, members: Sequence[Member]) -> list[Link]:
    """Return the links between facts of a version, those aside that are withdrawn from it."""
    withdrawn = {member.edit_set_id: set(member.withdrawn) for member in members}
    query = select(Supersession).where(
        queries.one_of(Supersession.older_edit_set_id, withdrawn),
        queries.one_of(Supersession.newer_edit_set_id, withdrawn),
    )
    found = [
        Link((row.older_edit_set_id, row.older_position), (row.newer_edit_set_id, row.newer_position))
        for row in session.scalars(query)
    ]
    return sorted(
        link
        for link in found
        if all(position not in withdrawn[ident] for ident, position in (link.older, link.newer))
    )


def arrange(session: Session, members: Iterable[Member]) -> tuple[Member, ...]:
    """Return members with the facts that are superseded among them, in the order of their edit sets."""
    members = tuple(sorted(members))
    superseded: defaultdict[str, set[int]] = defaultdict(set)
    for link in links(session, members):
        superseded[link.older[0]].add(link.older[1])
    return tuple(
        replace(member, superseded=tuple(sorted(superseded[member.edit_set_id]))) for member in members
    )


def refuse_conflicts(session: Session, model_id: str, facts: Sequence[Mapping[str, Any]]) -> None:
    """See that no fact of an edit set answers what a live fact of the model does.

    Raises:
        FactConflict: naming each that does, and the live fact.
    """
    live = {member.edit_set_id: member for member in versions.live(session, model_id).members}
    asked: list[tuple[int, Collection[str]]] = [
        (position, lookup_keys(fact["prompt"], fact["subject"], fact["rephrasings"]))
        for position, fact in enumerate(facts)
    ]
    found = {
        position: fact_id(*other)
        for position, other in _same_question(session, asked, sorted(live))
        if other[1] not in live[other[0]].left_out
    }
    if found:
        raise FactConflict(found)


def of_facts(
    session: Session, members: Sequence[Member], edit_set_id: str
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Return by position in an edit set the facts of a version that supersede it, and those it does."""
    by: defaultdict[int, list[str]] = defaultdict(list)
    over: defaultdict[int, list[str]] = defaultdict(list)
    for link in links(session, members):
        if link.older[0] == edit_set_id:
            by[link.older[1]].append(fact_id(*link.newer))
        if link.newer[0] == edit_set_id:
            over[link.newer[1]].append(fact_id(*link.older))
    return by, over

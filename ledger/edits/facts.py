"""Facts: what each edit set asks for, with what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVarTuple

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    Row,
    Select,
    Text,
    all_,
    and_,
    cast,
    false,
    func,
    not_,
    select,
    true,
)
from sqlalchemy.orm import Session

from ledger.db import cursors, queries
from ledger.db.tables import EditSet, Fact, FactReportRow, Membership, TrialReport
from ledger.edits import conflicts
from ledger.errors import NotFound
from ledger.ids import fact_id, parse_fact_id
from ledger.integrity import chain
from ledger.records import FactRecord, Json, Page, Provenance, VersionRecord
from ledger.states import Joiner
from ledger.versions import members, versions

Columns = TypeVarTuple("Columns")


def record(row: Fact, live: bool = False, report: Json | None = None) -> FactRecord:
    """Return the record of a row."""
    joiner: Joiner = row.joiner  # type: ignore[assignment]  # a check constraint holds it
    return FactRecord(
        id=fact_id(row.edit_set_id, row.position),
        edit_set_id=row.edit_set_id,
        position=row.position,
        prompt=row.prompt,
        target=row.target,
        subject=row.subject,
        rephrasings=tuple(row.rephrasings),
        locality=tuple(row.locality),
        question=row.question,
        joiner=joiner,
        provenance=Provenance(**{name: getattr(row, name) for name in chain.PROVENANCE}),
        live=live,
        report=report,
    )


def _reports(session: Session, edit_set: EditSet, positions: list[int]) -> dict[int, Json]:
    """Return what the edit set's own version measured, or its dry run."""
    if edit_set.dry_run:
        query = select(TrialReport).where(TrialReport.edit_set_id == edit_set.id)
        return {row.position: row.report for row in session.scalars(query)}
    found = session.scalars(
        select(FactReportRow).where(
            FactReportRow.model_id == edit_set.model_id,
            FactReportRow.number == edit_set.version_number,
            FactReportRow.edit_set_id == edit_set.id,
            queries.one_of(FactReportRow.position, positions),
        )
    )
    return {row.position: row.report for row in found}


def _records(session: Session, edit_set: EditSet, found: Sequence[Fact]) -> list[FactRecord]:
    reports = _reports(session, edit_set, [row.position for row in found])
    number = versions.live_number(session, edit_set.model_id)
    own = members.at(session, edit_set.model_id, number, [edit_set.id]).get(edit_set.id)
    by, over = conflicts.of_facts(session, edit_set.model_id, number, edit_set.id)
    return [
        replace(
            record(row, own is not None and row.position not in own.left_out, reports.get(row.position)),
            superseded_by=tuple(by[row.position]),
            supersedes=tuple(over[row.position]),
        )
        for row in found
    ]


def get(session: Session, ident: str) -> FactRecord:
    """Return a fact with its report.

    Raises:
        NotFound: there is no such fact.
    """
    place = parse_fact_id(ident)
    row = session.get(Fact, place) if place is not None and queries.can_be_id(ident) else None
    if row is None:
        raise NotFound("fact", ident)
    return _records(session, session.get_one(EditSet, row.edit_set_id), [row])[0]


def list_of(
    session: Session,
    edit_set_id: str,
    limit: int = 50,
    cursor: str | None = None,
    *,
    lacking: str | None = None,
) -> Page[FactRecord]:
    """Return a page of an edit set's facts, in their order, each with its report.

    Args:
        session: the transaction.
        edit_set_id: the edit set.
        limit: facts of a page.
        cursor: of the page before, or None.
        lacking: only those whose report has less than 1 of this measure; `margin`: those that an edit gave
            less margin than was wanted.

    Raises:
        NotFound: there is no such edit set.
        InvalidCursor: the cursor is not one of this list.
    """
    edit_set = queries.find(session, EditSet, edit_set_id, "edit set")
    query = select(Fact).where(Fact.edit_set_id == edit_set.id)
    listing = f"facts {edit_set.id}"
    if lacking is not None:
        query, listing = query.where(_lacks(edit_set, lacking)), f"{listing} {lacking}"
    page: Page[Fact] = queries.page(
        session, query, Fact.position, listing, limit, cursor, lambda row: row.Fact, newest_first=False
    )
    return Page(tuple(_records(session, edit_set, page.items)), page.next_cursor)


def _lacks(edit_set: EditSet, measure: str) -> ColumnElement[bool]:
    """Say that a fact's own report has less than 1 of a measure."""
    table = TrialReport if edit_set.dry_run else FactReportRow
    own = select(table).where(table.edit_set_id == Fact.edit_set_id, table.position == Fact.position)
    if not edit_set.dry_run:
        own = own.where(FactReportRow.number == edit_set.version_number)
    if measure == "margin":
        return own.where(table.report["edit"]["reason"].astext.is_not(None)).exists()
    return own.where(table.report[measure].astext.not_in(("1", "1.0", "true"))).exists()


def all_of(session: Session, edit_set_id: str) -> tuple[FactRecord, ...]:
    """Return every fact of an edit set, in order, without reports."""
    found = session.scalars(select(Fact).where(Fact.edit_set_id == edit_set_id).order_by(Fact.position))
    return tuple(record(row) for row in found)


def of_version(session: Session, model_id: str, number: int) -> tuple[FactRecord, ...]:
    """Return all facts that a version holds, by edit set, then by position."""
    found = session.scalars(
        _held(select(Fact), model_id, number).order_by(Fact.edit_set_id, Fact.position)
    ).all()
    return tuple(record(row, True, None) for row in found)


def held(
    session: Session, model_id: str, ref: int | str, limit: int = 50, cursor: str | None = None
) -> tuple[int, Page[FactRecord]]:
    """Return a version's number, and a page of the facts that it holds, by edit set, then by position.

    Raises:
        NotFound: there is no such version.
        InvalidCursor: the cursor is not one of this list.
    """
    number = versions.number_of(session, model_id, ref)
    page = _page(session, _held(select(Fact), model_id, number), f"facts {model_id} {number}", limit, cursor)
    return number, Page(tuple(record(row) for (row,) in page.items), page.next_cursor)


def changes(
    session: Session,
    model_id: str,
    ref: int | str,
    since: int | str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> tuple[VersionRecord, VersionRecord, Page[tuple[bool, FactRecord]]]:
    """Return two versions, and a page of the facts that differ between them; see `differing`.

    Args:
        session: the transaction.
        model_id: the model.
        ref: the one version, by number or alias.
        since: the other; None for the parent of the first, or version 0 itself.
        limit: facts of a page.
        cursor: of the page before, or None.

    Raises:
        NotFound: there is no such version.
        InvalidCursor: the cursor is not one of this list.
    """
    version = versions.get(session, model_id, ref)
    other = versions.get(session, model_id, (version.parent or 0) if since is None else since)
    page = differing(session, model_id, version.number, other.number, limit, cursor)
    return version, other, page


def differing(
    session: Session, model_id: str, number: int, since: int, limit: int, cursor: str | None
) -> Page[tuple[bool, FactRecord]]:
    """Return a page of the facts that one of two versions holds and the other does not; as `held` has them.

    Returns:
        Whether it is the version `number` that holds the fact, and the fact.

    Raises:
        InvalidCursor: the cursor is not one of this list.
    """
    places = select(Fact.edit_set_id, Fact.position)
    ends = [members.covers(Membership, end) for end in (number, since)]
    here, there = (_held(places, model_id, end).where(not_(and_(*ends))) for end in (number, since))
    added, removed = here.except_(there).subquery(), there.except_(here).subquery()
    changes = select(added, true().label("added")).union_all(select(removed, false())).subquery()
    query = select(Fact, changes.c.added).join(
        changes, and_(changes.c.edit_set_id == Fact.edit_set_id, changes.c.position == Fact.position)
    )
    page = _page(session, query, f"changes {model_id} {since} {number}", limit, cursor)
    return Page(tuple((added, record(row)) for row, added in page.items), page.next_cursor)


def _held(query: Select[*Columns], model_id: str, number: int) -> Select[*Columns]:
    """Narrow a query to the facts that a version holds."""
    return query.join(Membership, Membership.edit_set_id == Fact.edit_set_id).where(
        Membership.model_id == model_id,
        members.covers(Membership, number),
        Fact.position != all_(Membership.withdrawn),
        Fact.position != all_(Membership.superseded),
    )


def _page(
    session: Session, query: Select[*Columns], listing: str, limit: int, cursor: str | None
) -> Page[Row[*Columns]]:
    """Return a page of facts of versions, which never change, so that the cursor is how many were shown."""
    limit, shown = cursors.clamp(limit), cursors.decode(listing, cursor, 32) or 0
    ordered = query.order_by(Fact.edit_set_id, Fact.position)
    found = session.execute(ordered.offset(shown).limit(limit + 1)).all()
    following = cursors.encode(listing, shown + limit) if len(found) > limit else None
    return Page(tuple(found[:limit]), following)


def at(session: Session, places: Sequence[tuple[str, int]]) -> tuple[FactRecord, ...]:
    """Return facts by edit set and position, in that order, each with what its own set's version measured.

    Raises:
        NotFound: there is no such fact.
    """
    wanted = (
        func.unnest(
            cast([edit_set_id for edit_set_id, _ in places], ARRAY(Text())),
            cast([position for _, position in places], ARRAY(Integer())),
        )
        .table_valued("edit_set_id", "position")
        .render_derived()
    )
    query = (
        select(Fact, FactReportRow.report)
        .join(wanted, (wanted.c.edit_set_id == Fact.edit_set_id) & (wanted.c.position == Fact.position))
        .join(EditSet, EditSet.id == Fact.edit_set_id)
        .outerjoin(
            FactReportRow,
            and_(
                FactReportRow.model_id == EditSet.model_id,
                FactReportRow.number == EditSet.version_number,
                FactReportRow.edit_set_id == Fact.edit_set_id,
                FactReportRow.position == Fact.position,
            ),
        )
    )
    found = {
        (row.edit_set_id, row.position): record(row, False, report) for row, report in session.execute(query)
    }
    missing = next((place for place in places if place not in found), None)
    if missing is not None:
        raise NotFound("fact", fact_id(*missing))
    return tuple(found[place] for place in places)

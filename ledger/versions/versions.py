"""Versions: the links of a model's chain. Added at its head, never changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import and_, func, insert, literal, select
from sqlalchemy.orm import Session

from ledger.db import queries
from ledger.db.tables import Alias, EditSet, FactReportRow, Head, Model, Version, VersionEditSet
from ledger.errors import ModelNotReady, NotFound
from ledger.integrity import chain
from ledger.records import FactReport, Json, Member, Page, VersionRecord
from ledger.states import VersionKind

GREATEST = 2**31 - 1
BASE = "base"
LIVE = "live"


@dataclass(frozen=True)
class Draft:
    """What a new version says of itself; the rest follows from its place in the chain.

    `like` is a version with much the same members: rows of those are copied in the database.
    """

    kind: VersionKind
    parent: int | None
    members: tuple[Member, ...]
    delta_digest: str | None
    weights_digest: str | None
    gate_met: bool
    created_by: str
    restores: int | None = None
    edit_set_id: str | None = None
    job_id: str | None = None
    statistics_digest: str | None = None
    report: Json | None = None
    reason: str | None = None
    fact_reports: tuple[FactReport, ...] = field(default=())
    like: VersionRecord | None = None


def lock_head(session: Session, model_id: str) -> Head:
    """Return the end of a model's chain, locked until the transaction ends: versions are made one by one.

    Raises:
        NotFound: there is no such model.
        ModelNotReady: it has no version yet.
    """
    model = queries.find(session, Model, model_id, "model")
    head = session.get(Head, model.id, with_for_update=True, populate_existing=True)
    if head is None:
        raise ModelNotReady(model_id, model.status)
    return head


def append(session: Session, head: Head, draft: Draft) -> VersionRecord:
    """Add a version after a locked head, with its members and reports, and return it."""
    model = session.get_one(Model, head.model_id)
    members = tuple(sorted(draft.members))
    facts = _facts_of(session, members)
    first = draft.kind == "base"
    unhashed = VersionRecord(
        model_id=model.id,
        number=0 if first else head.number + 1,
        kind=draft.kind,
        parent=draft.parent,
        restores=draft.restores,
        edit_set_id=draft.edit_set_id,
        members=members,
        live_fact_count=sum(facts[m.edit_set_id][0] - len(m.left_out) for m in members),
        base_digest=model.digest,
        editor_digest=model.editor_digest or "",
        delta_digest=draft.delta_digest,
        weights_digest=draft.weights_digest,
        statistics_digest=draft.statistics_digest,
        fact_reports_digest=chain.fact_reports_digest(draft.fact_reports),
        report=chain.storable(draft.report, "/report"),
        gate_met=draft.gate_met,
        reason=chain.storable(draft.reason, "/reason"),
        created_at=_now(session, head),
        created_by=draft.created_by,
        previous_hash=None if first else head.hash,
        hash="",
    )
    digests = {ident: digest for ident, (_, digest) in facts.items()}
    version = replace(unhashed, hash=chain.version_hash(unhashed, digests))
    _insert(session, version, draft)
    head.number, head.hash = version.number, version.hash
    session.flush()
    return version


def _facts_of(session: Session, members: Sequence[Member]) -> dict[str, tuple[int, str]]:
    """Return how many facts each member's edit set has, and their digest."""
    wanted = [member.edit_set_id for member in members]
    query = select(EditSet.id, EditSet.fact_count, EditSet.facts_digest).where(
        queries.one_of(EditSet.id, wanted)
    )
    return {ident: (count, digest) for ident, count, digest in session.execute(query)}


def _now(session: Session, head: Head) -> datetime:
    """Return the time by the database's clock, never earlier than that of the model's other versions."""
    newest = select(func.max(Version.created_at)).where(Version.model_id == head.model_id)
    found: datetime = session.execute(
        select(func.greatest(func.clock_timestamp(), newest.scalar_subquery()))
    ).scalar_one()
    return found


def _insert(session: Session, version: VersionRecord, draft: Draft) -> None:
    values = {
        column.key: getattr(version, column.key)
        for column in Version.__table__.columns
        if column.key != "job_id"
    }
    session.execute(insert(Version).values(job_id=draft.job_id, **values))
    place = {"model_id": version.model_id, "number": version.number}
    alike = set() if draft.like is None else {*version.members} & {*draft.like.members}
    if draft.like is not None:
        _copy_members(session, draft.like, version.number, alike)
    members = [
        {
            **place,
            "edit_set_id": member.edit_set_id,
            "statistics_digest": member.statistics_digest,
            "withdrawn": list(member.withdrawn),
            "superseded": list(member.superseded),
        }
        for member in version.members
        if member not in alike
    ]
    if members:
        session.execute(insert(VersionEditSet), members)
    if draft.fact_reports:
        reports = [
            {
                **place,
                "edit_set_id": report.edit_set_id,
                "position": report.position,
                "report": chain.storable(report.report, f"/facts/{report.position}"),
            }
            for report in draft.fact_reports
        ]
        session.execute(insert(FactReportRow), reports)


def _copy_members(session: Session, like: VersionRecord, number: int, alike: Iterable[Member]) -> None:
    """Add to a version some of the members that another one of its model has."""
    columns = VersionEditSet.__table__.columns
    rows_alike = select(*(literal(number) if column.key == "number" else column for column in columns)).where(
        VersionEditSet.model_id == like.model_id,
        VersionEditSet.number == like.number,
        queries.one_of(VersionEditSet.edit_set_id, [member.edit_set_id for member in alike]),
    )
    session.execute(insert(VersionEditSet).from_select(columns.keys(), rows_alike))


def members_of(session: Session, model_id: str, numbers: Sequence[int]) -> Mapping[int, tuple[Member, ...]]:
    """Return the members of some versions of a model, in the order of their edit sets."""
    found: defaultdict[int, list[Member]] = defaultdict(list)
    query = select(
        VersionEditSet.number,
        VersionEditSet.edit_set_id,
        VersionEditSet.statistics_digest,
        VersionEditSet.withdrawn,
        VersionEditSet.superseded,
    ).where(VersionEditSet.model_id == model_id, queries.one_of(VersionEditSet.number, numbers))
    for number, edit_set_id, statistics_digest, withdrawn, superseded in session.execute(query):
        found[number].append(Member(edit_set_id, statistics_digest, tuple(withdrawn), tuple(superseded)))
    return {number: tuple(sorted(found[number])) for number in numbers}


def records(session: Session, found: Sequence[Version]) -> list[VersionRecord]:
    """Return the records of some versions of one model."""
    if not found:
        return []
    model_id = found[0].model_id
    members = members_of(session, model_id, [row.number for row in found])
    aliases = _aliases(session, model_id)
    return [_record(row, members[row.number], tuple(aliases[row.number])) for row in found]


def _aliases(session: Session, model_id: str) -> defaultdict[int, list[str]]:
    aliases: defaultdict[int, list[str]] = defaultdict(list)
    query = select(Alias.number, Alias.name).where(Alias.model_id == model_id).order_by(Alias.name)
    for number, name in session.execute(query):
        aliases[number].append(name)
    return aliases


def named(session: Session, version: VersionRecord) -> VersionRecord:
    """Return a version that was just made, with the aliases that point at it by now."""
    return replace(version, aliases=tuple(_aliases(session, version.model_id)[version.number]))


def _record(row: Version, members: tuple[Member, ...], aliases: tuple[str, ...]) -> VersionRecord:
    kind: VersionKind = row.kind  # type: ignore[assignment]  # a check constraint holds it
    return VersionRecord(
        model_id=row.model_id,
        number=row.number,
        kind=kind,
        parent=row.parent,
        restores=row.restores,
        edit_set_id=row.edit_set_id,
        members=members,
        live_fact_count=row.live_fact_count,
        base_digest=row.base_digest,
        editor_digest=row.editor_digest,
        delta_digest=row.delta_digest,
        weights_digest=row.weights_digest,
        statistics_digest=row.statistics_digest,
        fact_reports_digest=row.fact_reports_digest,
        report=row.report,
        gate_met=row.gate_met,
        reason=row.reason,
        created_at=row.created_at,
        created_by=row.created_by,
        previous_hash=row.previous_hash,
        hash=row.hash,
        aliases=aliases,
    )


def find(session: Session, model_id: str, ref: int | str) -> Version:
    """Return the row of a version by number, `base` or alias: all of it but its members.

    Raises:
        NotFound: there is no such model, alias or version.
    """
    model = queries.find(session, Model, model_id, "model")
    number: int | None
    if isinstance(ref, int) or (ref.isascii() and ref.isdigit() and len(ref) <= 10):
        number = int(ref)
    elif ref == BASE:
        number = 0
    else:
        number = queries.find_alias(session, model.id, ref)
    known = number is not None and 0 <= number <= GREATEST
    row = session.get(Version, (model.id, number)) if known else None
    if row is None:
        raise NotFound("version", ref)
    return row


def get(session: Session, model_id: str, ref: int | str) -> VersionRecord:
    """Return a version by number, `base` or alias.

    Raises:
        NotFound: there is no such model, alias or version.
    """
    return records(session, [find(session, model_id, ref)])[0]


def live(session: Session, model_id: str) -> VersionRecord:
    """Return the live version as it is now.

    Raises:
        NotFound: there is no such model.
        ModelNotReady: it has no version yet.
    """
    model = queries.find(session, Model, model_id, "model")
    number = queries.find_alias(session, model.id, LIVE)
    if number is None:
        raise ModelNotReady(model_id, model.status)
    return records(session, [session.get_one(Version, (model_id, number))])[0]


def live_members(session: Session, model_id: str) -> tuple[Member, ...]:
    """Return the members of the live version; none while there is no version."""
    number = queries.find_alias(session, model_id, LIVE)
    return () if number is None else members_of(session, model_id, [number])[number]


def live_among(session: Session, edit_set_ids: Sequence[str]) -> set[str]:
    """Return those of some edit sets that the live version of their model holds."""
    held = VersionEditSet
    at = and_(Alias.model_id == held.model_id, Alias.number == held.number, Alias.name == LIVE)
    return set(
        session.scalars(select(held.edit_set_id).join(Alias, at).where(held.edit_set_id.in_(edit_set_ids)))
    )


def list_all(session: Session, model_id: str, limit: int, cursor: str | None) -> Page[VersionRecord]:
    """Return a page of a model's versions, newest first.

    Raises:
        NotFound: there is no such model.
        InvalidCursor: the cursor is not one of this list.
    """
    model = queries.find(session, Model, model_id, "model")
    return queries.page(
        session,
        select(Version).where(Version.model_id == model.id),
        Version.number,
        f"versions {model.id}",
        limit,
        cursor,
        lambda found: records(session, found),
    )

"""Versions: the links of a model's chain. Added at its head, never changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from ledger.db import queries
from ledger.db.tables import Alias, FactReportRow, Head, Membership, Model, Version
from ledger.errors import ModelNotReady, NotFound, OtherBase
from ledger.integrity import chain, set_digest
from ledger.records import FactReport, Json, Member, Page, VersionRecord
from ledger.states import VersionKind
from ledger.versions import members
from ledger.versions.members import Change

GREATEST = 2**31 - 1
BASE = "base"
LIVE = "live"


@dataclass(frozen=True)
class Draft:
    """What a new version says of itself; the rest follows from its place in the chain.

    Its members are those of version `like`, with `change`.
    """

    kind: VersionKind
    parent: int | None
    like: int
    change: Change
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
    """Add a version after a locked head, with what it changes and its reports, and return it."""
    model = session.get_one(Model, head.model_id)
    first = not head.hash
    closed, opened = ([], []) if first else _turnover(session, head, draft)
    state = set_digest.update(
        head.members_state, map(chain.member_content, opened), map(chain.member_content, closed)
    )
    before = None if first else session.get_one(Version, (model.id, head.number))
    unhashed = VersionRecord(
        model_id=model.id,
        number=0 if first else head.number + 1,
        kind=draft.kind,
        parent=draft.parent,
        restores=draft.restores,
        edit_set_id=draft.edit_set_id,
        members_digest=set_digest.of(state),
        edit_set_count=(before.edit_set_count if before else 0) + len(opened) - len(closed),
        live_fact_count=(before.live_fact_count if before else 0) + _facts(opened) - _facts(closed),
        base_digest=model.digest,
        editor_digest=model.editor_digest or "",
        delta_digest=draft.delta_digest,
        weights_digest=draft.weights_digest,
        statistics_digest=draft.statistics_digest,
        fact_reports_digest=chain.fact_reports_digest(draft.fact_reports),
        report=chain.storable(draft.report, "/report"),
        gate_met=draft.gate_met,
        reason=chain.storable(draft.reason, "/reason"),
        created_at=_now(session, before),
        created_by=draft.created_by,
        previous_hash=None if first else head.hash,
        hash="",
    )
    version = replace(unhashed, hash=chain.version_hash(unhashed, closed, opened))
    _insert(session, version, draft)
    members.write(session, model.id, version.number, closed, opened)
    head.number, head.hash, head.members_state = version.number, version.hash, state
    session.flush()
    return version


def _turnover(session: Session, head: Head, draft: Draft) -> tuple[list[Member], list[Member]]:
    """Return the members of the newest version that end with a new one, and those that begin with it."""
    moved = members.difference(session, head.model_id, head.number, draft.like)
    stay = members.at(session, head.model_id, head.number, draft.change.keys() - moved.keys())
    before = {ident: one for ident, (one, _) in moved.items()} | stay
    after = {ident: other for ident, (_, other) in moved.items()} | dict(draft.change)
    differing = sorted(ident for ident in after if before.get(ident) != after[ident])
    closed = [member for ident in differing if (member := before.get(ident)) is not None]
    return closed, [member for ident in differing if (member := after[ident]) is not None]


def _facts(some: Sequence[Member]) -> int:
    return sum(member.live_fact_count for member in some)


def _now(session: Session, before: Version | None) -> datetime:
    """Return the time by the database's clock, never earlier than that of the version before."""
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return now if before is None else max(now, before.created_at)


def _insert(session: Session, version: VersionRecord, draft: Draft) -> None:
    values = {
        column.key: getattr(version, column.key)
        for column in Version.__table__.columns
        if column.key != "job_id"
    }
    session.execute(insert(Version).values(job_id=draft.job_id, **values))
    place = {"model_id": version.model_id, "number": version.number}
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


def records(session: Session, found: Sequence[Version]) -> list[VersionRecord]:
    """Return the records of some versions of one model."""
    if not found:
        return []
    aliases = _aliases(session, found[0].model_id)
    return [_record(row, tuple(aliases[row.number])) for row in found]


def _aliases(session: Session, model_id: str) -> defaultdict[int, list[str]]:
    aliases: defaultdict[int, list[str]] = defaultdict(list)
    query = select(Alias.number, Alias.name).where(Alias.model_id == model_id).order_by(Alias.name)
    for number, name in session.execute(query):
        aliases[number].append(name)
    return aliases


def named(session: Session, version: VersionRecord) -> VersionRecord:
    """Return a version that was just made, with the aliases that point at it by now."""
    return replace(version, aliases=tuple(_aliases(session, version.model_id)[version.number]))


def _record(row: Version, aliases: tuple[str, ...]) -> VersionRecord:
    kind: VersionKind = row.kind  # type: ignore[assignment]  # a check constraint holds it
    return VersionRecord(
        model_id=row.model_id,
        number=row.number,
        kind=kind,
        parent=row.parent,
        restores=row.restores,
        edit_set_id=row.edit_set_id,
        members_digest=row.members_digest,
        edit_set_count=row.edit_set_count,
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
    """Return the row of a version by number, `base` or alias.

    Raises:
        NotFound: there is no such model, alias or version.
    """
    model = queries.find(session, Model, model_id, "model")
    number: int | None
    if isinstance(ref, int) or (ref.isascii() and ref.isdigit() and len(ref) <= 10):
        number = int(ref)
    elif ref == BASE:
        number = base_number(session, model.id)
    else:
        number = queries.find_alias(session, model.id, ref)
    known = number is not None and 0 <= number <= GREATEST
    row = session.get(Version, (model.id, number)) if known else None
    if row is None:
        raise NotFound("version", ref)
    return row


def base_number(session: Session, model_id: str) -> int:
    """Return the number of the base itself: 0, or a later one if the model was archived and registered again."""
    query = select(func.max(Version.number)).where(Version.model_id == model_id, Version.kind == "base")
    return session.scalar(query) or 0


def check_base(session: Session, model_id: str, number: int) -> None:
    """Refuse a version of a checkpoint that was archived: it can be looked at, not served.

    Raises:
        OtherBase: so it is.
    """
    first = base_number(session, model_id)
    if number < first:
        raise OtherBase(model_id, number, first)


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


def live_number(session: Session, model_id: str) -> int:
    """Return the number of the live version; 0 while there is none."""
    return queries.find_alias(session, model_id, LIVE) or 0


def live_among(session: Session, edit_set_ids: Sequence[str]) -> set[str]:
    """Return those of some edit sets that the live version of their model holds."""
    at_live = members.covers(Membership, Alias.number) & (Alias.name == LIVE)
    query = select(Membership.edit_set_id).join(Alias, (Alias.model_id == Membership.model_id) & at_live)
    return set(session.scalars(query.where(queries.one_of(Membership.edit_set_id, edit_set_ids))))


def list_all(
    session: Session, model_id: str, limit: int = 50, cursor: str | None = None
) -> Page[VersionRecord]:
    """Return a page of a model's versions, newest first.

    Raises:
        NotFound: there is no such model.
        InvalidCursor: the cursor is not one of this list.
    """
    model = queries.find(session, Model, model_id, "model")
    aliases = _aliases(session, model.id)
    return queries.page(
        session,
        select(Version).where(Version.model_id == model.id),
        Version.number,
        f"versions {model.id}",
        limit,
        cursor,
        lambda row: _record(row.Version, tuple(aliases[row.Version.number])),
    )


def number_of(session: Session, model_id: str, ref: int | str) -> int:
    """Return the number that a reference names; NotFound as `find` has it."""
    return find(session, model_id, ref).number


def served_number(session: Session, model_id: str, ref: int | str) -> int:
    """Return the number of a version that can be served.

    Raises:
        NotFound, OtherBase: as `find` and `check_base` say.
    """
    number = number_of(session, model_id, ref)
    check_base(session, model_id, number)
    return number


def members_of(session: Session, model_id: str, ref: int | str) -> dict[str, Member]:
    """Return the members of a version by edit set; NotFound as `find` has it."""
    row = find(session, model_id, ref)
    return members.at(session, row.model_id, row.number)


def list_members(
    session: Session, model_id: str, ref: int | str, limit: int = 50, cursor: str | None = None
) -> tuple[int, Page[Member]]:
    """Return a version's number and a page of its members; see `members.page`."""
    row = find(session, model_id, ref)
    return row.number, members.page(session, row.model_id, row.number, limit, cursor)

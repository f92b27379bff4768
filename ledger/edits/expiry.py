"""Expiry: facts whose time is over are withdrawn by themselves, as an administrator would withdraw them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, all_, and_, false, func, or_, select
from sqlalchemy.orm import Session

from ledger.db import queries
from ledger.db.tables import Alias, Fact, Head, Membership, Withdrawal
from ledger.edits import withdrawals
from ledger.ids import fact_id
from ledger.records import WithdrawalRecord
from ledger.versions import members
from ledger.versions.versions import LIVE

REASON = "expired"
ACTOR = "expiry"
RETRY_S = 600.0
LOCK = 0x45525245  # one process at a time looks for what has expired

Live = Collection[tuple[str, int]]


@dataclass(frozen=True)
class Looked:
    """Live versions, by model and number, of which no fact that they hold had expired by some time."""

    live: Live
    until: datetime


def withdraw(session: Session, looked: Looked | None) -> tuple[list[WithdrawalRecord], Looked | None]:
    """Ask for live versions without the facts that have expired: one withdrawal for each model that has any.

    Left for the next time are a model whose head is locked, and one whose last such withdrawal is still to be
    done or failed a short time ago; and all, if another process is looking.

    Args:
        session: the transaction.
        looked: what this returned the time before; while the same versions are live, only facts that expired
            since are looked for, not all that ever did.

    Returns:
        The withdrawals, and what to say the next time.
    """
    if not session.scalar(select(func.pg_try_advisory_xact_lock(LOCK))):
        return [], looked
    found = session.execute(select(Alias.model_id, Alias.number).where(Alias.name == LIVE))
    live = sorted((model_id, number) for model_id, number in found)
    query = _expired(live, Membership.model_id).distinct()
    if looked is not None and looked.live == live:
        query = query.where(Fact.expires_at > looked.until)
    models = session.scalars(query).all()
    if models:
        return _ask(session, models), looked
    return [], Looked(live, session.execute(select(func.now())).scalar_one())


def _ask(session: Session, models: Collection[str]) -> list[WithdrawalRecord]:
    made = []
    for model_id in models:
        head = select(Head).where(Head.model_id == model_id).with_for_update(skip_locked=True)
        if session.scalar(head) is None or _waiting(session, model_id):
            continue
        live = [(model_id, queries.find_alias(session, model_id, LIVE) or 0)]
        expired = session.execute(_expired(live, Fact.edit_set_id, Fact.position)).all()
        idents = [fact_id(edit_set_id, position) for edit_set_id, position in expired]
        if idents:
            made.append(withdrawals.request(session, model_id, [], idents, REASON, ACTOR))
    return made


def _expired(live: Live, *columns: Any) -> Select[Any]:
    """Select columns of the facts that have expired and are not withdrawn from these live versions."""
    return (
        select(*columns)
        .select_from(Fact)
        .join(Membership, Membership.edit_set_id == Fact.edit_set_id)
        .where(
            or_(
                *(
                    and_(Membership.model_id == model_id, members.covers(Membership, number))
                    for model_id, number in live
                ),
                false(),
            ),
            Fact.expires_at <= func.now(),
            Fact.position != all_(Membership.withdrawn),
        )
    )


def _waiting(session: Session, model_id: str) -> bool:
    recent = func.now() - timedelta(seconds=RETRY_S)
    query = select(Withdrawal.id).where(
        Withdrawal.model_id == model_id,
        Withdrawal.created_by == ACTOR,
        or_(
            Withdrawal.finished_at.is_(None),
            (Withdrawal.status == "failed") & (Withdrawal.finished_at > recent),
        ),
    )
    return session.scalar(query.limit(1)) is not None

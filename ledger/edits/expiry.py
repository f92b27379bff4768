"""Expiry: facts whose time is over are withdrawn by themselves, as an administrator would withdraw them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import all_, func, or_, select
from sqlalchemy.orm import Session

from ledger.db.tables import Fact, Head, Membership, Withdrawal
from ledger.edits import withdrawals
from ledger.ids import fact_id
from ledger.records import WithdrawalRecord
from ledger.versions import members, versions

REASON = "expired"
ACTOR = "expiry"
RETRY_S = 600.0


@dataclass(frozen=True)
class Looked:
    """A live version of which no fact had expired by some time."""

    number: int
    until: datetime


def withdraw(
    session: Session, model_id: str, looked: Looked | None = None
) -> tuple[WithdrawalRecord | None, Looked | None]:
    """Ask for the live version without the facts that have expired.

    Left for the next time are a model whose head is locked, and one whose last such withdrawal is still to be
    done or failed a short time ago.

    Args:
        session: the transaction.
        model_id: the model.
        looked: what this returned the time before; while the same version is live, only facts that expired
            since are looked for, not all that ever did.

    Returns:
        The withdrawal, if one was asked for, and what to say the next time.
    """
    number = versions.live_number(session, model_id)
    since = looked.until if looked is not None and looked.number == number else None
    now = session.execute(select(func.now())).scalar_one()
    if not _expired(session, model_id, number, since):
        return None, Looked(number, now)
    head = select(Head).where(Head.model_id == model_id).with_for_update(skip_locked=True)
    if session.scalar(head) is None or _waiting(session, model_id):
        return None, looked
    idents = _expired(session, model_id, versions.live_number(session, model_id), None)
    made = withdrawals.request(session, model_id, [], idents, REASON, ACTOR) if idents else None
    return made, looked


def _expired(session: Session, model_id: str, number: int, since: datetime | None) -> list[str]:
    """Ids of the facts of a version that have expired, since some time if there is one."""
    query = (
        select(Fact.edit_set_id, Fact.position)
        .join(Membership, Membership.edit_set_id == Fact.edit_set_id)
        .where(
            Membership.model_id == model_id,
            members.covers(Membership, number),
            Fact.expires_at <= func.now(),
            Fact.position != all_(Membership.withdrawn),
        )
    )
    if since is not None:
        query = query.where(Fact.expires_at > since)
    return [fact_id(*place) for place in session.execute(query.order_by(Fact.edit_set_id, Fact.position))]


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

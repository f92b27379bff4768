"""Expiry: facts whose time is over are withdrawn by themselves, as an administrator would withdraw them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Select, all_, func, or_, select
from sqlalchemy.orm import Session

from ledger import withdrawals
from ledger.ids import fact_id
from ledger.records import WithdrawalRecord
from ledger.tables import Alias, Fact, Head, VersionEditSet, Withdrawal
from ledger.versions import LIVE

REASON = "expired"
ACTOR = "expiry"
RETRY_S = 600.0


def withdraw(session: Session) -> list[WithdrawalRecord]:
    """Ask for live versions without the facts that have expired: one withdrawal for each model that has any.

    Left for the next time are a model whose head is locked, and one whose last such withdrawal is still to be
    done or failed a short time ago.
    """
    made = []
    for model_id in session.scalars(_expired(Alias.model_id).distinct()).all():
        head = select(Head).where(Head.model_id == model_id).with_for_update(skip_locked=True)
        if session.scalar(head) is None or _waiting(session, model_id):
            continue
        expired = session.execute(
            _expired(Fact.edit_set_id, Fact.position).where(Alias.model_id == model_id)
        ).all()
        idents = [fact_id(edit_set_id, position) for edit_set_id, position in expired]
        if idents:
            made.append(withdrawals.request(session, model_id, [], idents, REASON, ACTOR))
    return made


def _expired(*columns: Any) -> Select[Any]:
    """Select columns of the facts that have expired and are not withdrawn from the live version."""
    return (
        select(*columns)
        .select_from(Fact)
        .join(VersionEditSet, VersionEditSet.edit_set_id == Fact.edit_set_id)
        .join(Alias, (Alias.model_id == VersionEditSet.model_id) & (Alias.number == VersionEditSet.number))
        .where(
            Alias.name == LIVE,
            Fact.expires_at <= func.now(),
            Fact.position != all_(VersionEditSet.withdrawn),
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

"""Archiving: a model is served and edited no more, its ledger stays, and its id can be used again."""

from __future__ import annotations

from sqlalchemy import delete
from sqlalchemy.orm import Session

from ledger.auth import audit
from ledger.db import queries
from ledger.db.tables import Alias, Model
from ledger.jobs import jobs
from ledger.models import models
from ledger.records import Actor, ModelRecord


def archive(session: Session, model_id: str, actor: Actor) -> ModelRecord:
    """Archive a model, and cancel what waits for it or is worked on; an archived one stays so.

    Its aliases go, so nothing of it is live. Registered again, its chain goes on with a version of kind base.

    Raises:
        NotFound: there is no such model.
    """
    model = queries.find(session, Model, model_id, "model", lock=True)
    if model.status == "archived":
        return models.get(session, model_id)
    cancelled = jobs.cancel_all(session, model_id, actor, withdrawals=True)
    session.execute(delete(Alias).where(Alias.model_id == model_id))
    model.status, model.error = "archived", None
    session.flush()
    audit.record(session, actor, "model.archive", f"models/{model_id}", {"cancelled": len(cancelled)})
    return models.get(session, model_id)

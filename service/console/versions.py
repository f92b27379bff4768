"""Versions: a model's history, one version with its proof, and any two compared."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from ledger.auth import keys
from ledger.edits import facts, withdrawals
from ledger.ids import parse_fact_id
from ledger.jobs import jobs
from ledger.models import models
from ledger.versions import members
from ledger.versions import versions as ledger_versions
from service import views
from service.console import answers
from service.console.drawing import history, measures
from service.console.rendering import marked, page, router
from service.console.session import ReadSession
from service.context import Services, ServicesDep, Tx
from service.generation import unless_disconnected
from service.routes import ModelId
from service.routes.models import Ref, get_model, list_changes
from service.schemas.changes import Change, ChangesQuery
from service.schemas.edits import FINAL

routes = router()
VERSIONS, CHANGES, COMPARED = 30, 100, 16


@routes.get("/models/{model_id}")
def show_history(
    model_id: ModelId,
    request: Request,
    services: ServicesDep,
    tx: Tx,
    key: ReadSession,
    cursor: str | None = None,
) -> Response:
    """A model: its versions as a line and as a table, and what it is."""
    found = ledger_versions.list_all(tx, model_id, VERSIONS, cursor)
    shown = [views.version(each) for each in found.items]
    return page(
        request,
        "history.html",
        model=get_model(model_id, services, tx, key),
        versions=shown,
        history=history(shown),
        next_cursor=found.next_cursor,
        names=keys.names(tx),
        queued=len(jobs.unfinished(tx, model_id)),
    )


@routes.get("/models/{model_id}/compare")
def compare(
    model_id: ModelId, request: Request, tx: Tx, key: ReadSession, version: str = "live", since: str = ""
) -> Response:
    """Two versions side by side, from a form."""
    return show_version(model_id, version, request, tx, key, since or None)


@routes.get("/models/{model_id}/versions/{ref}")
def show_version(
    model_id: ModelId,
    ref: Ref,
    request: Request,
    tx: Tx,
    key: ReadSession,
    since: str | None = None,
    cursor: str | None = None,
) -> Response:
    """A version: what it changed since another, its measures, its proof, and what can be done with it."""
    asked = ChangesQuery(since=since, cursor=cursor, limit=CHANGES)
    found = list_changes(model_id, ref, asked, tx, key)
    difference = members.difference(tx, model_id, found.since.number, found.version.number)
    model = models.get(tx, model_id)
    return page(
        request,
        "version.html",
        version=found.version,
        since=found.since,
        changes=[(_cause(each, difference), each) for each in found.items],
        next_cursor=found.next_cursor,
        names=keys.names(tx),
        measures=measures(found.version.report, model.gate, found.since.report),
        live=model.live_version,
        newest=ledger_versions.list_all(tx, model_id, 1).items[0].number,
        queued=len(jobs.unfinished(tx, model_id)),
    )


def _cause(change: Change, difference: members.Difference) -> str:
    """How a fact came into a version, or left it."""
    if change.change == "added":
        return "added"
    _, after = difference.get(change.edit_set, (None, None))
    return "superseded" if after is not None and change.position in after.superseded else "withdrawn"


@routes.get("/models/{model_id}/versions/{ref}/answers")
async def differing_answers(
    model_id: ModelId, ref: Ref, request: Request, services: ServicesDep, _: ReadSession, since: str
) -> Response:
    """The prompts of facts that differ between two versions to which both answer differently."""
    asked, refs = await run_in_threadpool(_changed, services, model_id, ref, since)
    texts = await unless_disconnected(request, partial(answers.ask, services, model_id, asked, refs))
    rows: list[dict[str, Any]] = [
        {"asked": one, "texts": marked([str(each) for each in both])}
        for one, both in zip(asked, texts, strict=True)
        if both[0] != both[1]
    ]
    return page(request, "differing.html", rows=rows, asked=len(asked), refs=refs)


def _changed(
    services: Services, model_id: str, ref: str, since: str
) -> tuple[Sequence[answers.Asked], tuple[int, int]]:
    with services.ledger.transaction() as tx:
        here, there = (ledger_versions.served_number(tx, model_id, each) for each in (ref, since))
        found = facts.differing(tx, model_id, here, there, COMPARED, None)
    prompts = dict.fromkeys(fact.prompt for _, fact in found.items)
    return [answers.Asked("Statement", prompt) for prompt in prompts], (there, here)


@routes.get("/withdrawals/{withdrawal_id}")
def show_withdrawal(withdrawal_id: str, request: Request, tx: Tx, _: ReadSession) -> Response:
    """A withdrawal, which asks for itself again until it is done."""
    found = views.withdrawal(withdrawals.get(tx, withdrawal_id))
    named = [parse_fact_id(each) for each in found.facts]
    shown = facts.at(tx, [place for place in named[:CHANGES] if place is not None])
    return page(
        request,
        "withdrawal.html",
        withdrawal=found,
        facts=[views.held_fact(each) for each in shown],
        names=keys.names(tx),
        final=found.status in FINAL,
    )

"""Edit sets: accept, look, follow, cancel."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from ledger.db.engine import Transaction
from ledger.edits import edit_sets
from ledger.edits import facts as ledger_facts
from ledger.errors import ModelNotReady, NotFound
from ledger.models import models
from ledger.records import KeyRecord, Limits, ModelRecord
from service import deprecation, intake, uploads, views
from service.context import Services, ServicesDep, Tx, ring_after
from service.failures import typed_problem
from service.following import EVENTS, follow
from service.guard import EditKey, IdempotencyKey, ReadKey, Repeatable
from service.limits import MAX_SHOWN, check_edit
from service.problems import FieldError, Problem
from service.routes import EditSetId, problems, router
from service.schemas.base import Paged
from service.schemas.edits import EditRequest, EditSetView, EditsQuery, FactView, SetFactsQuery

routes = router("edits")


async def stream_edits(
    request: Request,
    services: ServicesDep,
    key: EditKey,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> EditSetView:
    """Accept an edit set whose facts come as lines, with its options in the query."""
    body = await uploads.read(request, services.settings)
    return await run_in_threadpool(
        services.ledger.run, _accept, body, services, key, response, idempotency_key
    )


routes.add_api_route(  # before the route that takes JSON
    "/edits",
    stream_edits,
    methods=["POST"],
    status_code=202,
    include_in_schema=False,
    route_class_override=uploads.UploadRoute,
)


@routes.post(
    "/edits",
    status_code=202,
    responses=problems(400, 404, 409, 413, 415, 422, 429),
    openapi_extra=uploads.DOCUMENTED,
)
def post_edits(
    body: EditRequest,
    services: ServicesDep,
    tx: Tx,
    key: EditKey,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> EditSetView:
    """Accept an edit set: it is in the ledger when this answers; a worker then applies and verifies it."""
    return _accept(tx, body, services, key, response, idempotency_key)


def _accept(
    tx: Transaction,
    body: EditRequest,
    services: Services,
    key: KeyRecord,
    response: Response,
    idempotency_key: str | None,
) -> EditSetView:
    asked = [intake.given(fact, body.joiner) for fact in body.facts]
    facts, merged = intake.merge(asked)

    def check(model: ModelRecord) -> None:
        check_edit(body, services.settings)
        if model.status in models.UNUSABLE:
            return  # which is said before the facts are looked at
        if not model.digest:
            raise ModelNotReady(model.id, "being fetched, and no facts can be checked yet")
        found = services.tokenizers.get(model).check_given(asked)
        if found:
            _refuse_facts([FieldError(problem.pointer, problem.detail) for problem in found])

    try:
        record, replayed = edit_sets.accept(
            tx,
            body.model,
            facts,
            promote=body.promote,
            gate=body.gate.model_dump(exclude_none=True) if body.gate else None,
            edit_on_rephrasings=body.edit_on_rephrasings,
            note=body.note,
            on_conflict=body.on_conflict,
            dry_run=body.dry_run,
            merged=merged,
            actor=key,
            idempotency_key=idempotency_key,
            body_digest=_digest(body),
            check=check,
            limits=Limits(
                of_key=services.settings.max_waiting_of_key,
                of_model=services.settings.max_waiting_of_model,
                seconds=services.settings.job_timeout_s,
            ),
        )
    except (NotFound, ModelNotReady) as error:
        raise typed_problem(error, [FieldError("/model", error.message)]) from error
    ring_after(tx, services, record.model_id)
    response.headers["Location"] = f"/edits/{record.id}"
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return views.accepted(record)


def _refuse_facts(found: list[FieldError]) -> None:
    extra = {"errors_left_out": len(found) - MAX_SHOWN} if len(found) > MAX_SHOWN else {}
    detail = f"{found[0].pointer}: {found[0].detail}"
    raise Problem("invalid-facts", detail, errors=found[:MAX_SHOWN], extra=extra)


def _digest(body: EditRequest) -> str:
    """The digest of what a body means, whatever its spacing and order of members."""
    text = json.dumps(body.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


@routes.get("/edits", responses=problems(404, 422))
def list_edits(
    asked: Annotated[EditsQuery, Query()], tx: Tx, response: Response, _: ReadKey
) -> Paged[EditSetView]:
    """Edit sets, newest first."""
    if asked.old_names:
        deprecation.note(response, "status is queued, running, succeeded, rejected, failed or cancelled")
    page = edit_sets.list_all(
        tx,
        limit=asked.limit,
        cursor=asked.cursor,
        model_id=asked.model,
        status=asked.ledger_statuses,
        live=asked.live,
        created_after=asked.created_after,
        created_before=asked.created_before,
        created_by=asked.created_by,
        text=asked.q,
    )
    return Paged(items=[views.edit_set(item) for item in page.items], next_cursor=page.next_cursor)


@routes.get("/edits/{edit_set_id}", responses=problems(404))
def get_edit(edit_set_id: EditSetId, tx: Tx, _: ReadKey) -> EditSetView:
    """One edit set: status, progress, report."""
    return views.edit_set(edit_sets.get(tx, edit_set_id))


@routes.get("/edits/{edit_set_id}/facts", responses=problems(404, 422))
def get_facts(
    edit_set_id: EditSetId, asked: Annotated[SetFactsQuery, Query()], tx: Tx, _: ReadKey
) -> Paged[FactView]:
    """The facts of an edit set, each with what was measured for it."""
    page = ledger_facts.list_of(tx, edit_set_id, limit=asked.limit, cursor=asked.cursor)
    return Paged(items=[views.fact(item) for item in page.items], next_cursor=page.next_cursor)


@routes.post("/edits/{edit_set_id}/cancel", responses=problems(404, 409, 422))
def cancel_edit(edit_set_id: EditSetId, tx: Tx, key: EditKey, _: Repeatable) -> EditSetView:
    """Cancel an edit set that has not been applied; cancelling twice is fine."""
    edit_sets.cancel(tx, edit_set_id, key)
    return views.edit_set(edit_sets.get(tx, edit_set_id))


@routes.get(
    "/edits/{edit_set_id}/events",
    response_class=StreamingResponse,
    responses={**problems(404, 429), **EVENTS},
)
async def follow_edit(edit_set_id: EditSetId, services: ServicesDep, _: ReadKey) -> StreamingResponse:
    """Progress as server-sent events, from the present state to the final one; a lost database ends none."""
    return await follow(services, lambda: views.edit_set(services.ledger.run(edit_sets.get, edit_set_id)))

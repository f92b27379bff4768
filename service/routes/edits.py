"""Edit sets: accept, look, follow, cancel."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from ledger.errors import LedgerError, LedgerUnavailable, NotFound
from ledger.records import KeyRecord
from ledger.states import FINAL_STATUSES
from malmen_core.facts import Fact
from service import sse, uploads, views
from service.context import Services, ServicesDep
from service.failures import typed_problem
from service.guard import EditKey, ReadKey
from service.limits import MAX_SHOWN, check_edit
from service.problems import FieldError, Problem
from service.routes import EditSetId, problems, router
from service.schemas.base import IDEMPOTENCY_KEY, Paged
from service.schemas.edits import Accepted, EditRequest, EditSetView, EditsQuery, FactView, SetFactsQuery

routes = router("edits")
POLL_S = 0.3
KEEP_ALIVE_S = 10.0

IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=IDEMPOTENCY_KEY,
        description="A repeat with this key gives the first answer instead of another edit set.",
    ),
]


async def stream_edits(
    request: Request,
    services: ServicesDep,
    key: EditKey,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """Accept an edit set whose facts come as lines, with its options in the query."""
    body = await uploads.read(request, services.settings)
    return await run_in_threadpool(_accept, body, services, key, response, idempotency_key)


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
    responses=problems(400, 404, 409, 413, 415, 422),
    openapi_extra=uploads.DOCUMENTED,
)
def post_edits(
    body: EditRequest,
    services: ServicesDep,
    key: EditKey,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """Accept an edit set: it is in the ledger when this answers; a worker then applies and verifies it."""
    return _accept(body, services, key, response, idempotency_key)


def _accept(
    body: EditRequest,
    services: Services,
    key: KeyRecord,
    response: Response,
    idempotency_key: str | None,
) -> Accepted:
    digest = _digest(body)
    record, replayed = services.ledger.first_answer(key, idempotency_key, digest), True
    if record is None:
        record, replayed = services.ledger.accept(
            model_id=body.model,
            facts=_checked(body, services),
            promote=body.promote,
            gate=body.gate.model_dump(exclude_none=True) if body.gate else None,
            edit_on_rephrasings=body.edit_on_rephrasings,
            note=body.note,
            on_conflict=body.on_conflict,
            dry_run=body.dry_run,
            actor=key,
            idempotency_key=idempotency_key,
            body_digest=digest,
        )
    services.doorbell.ring(record.model_id)
    response.headers["Location"] = f"/edits/{record.id}"
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return views.accepted(record)


def _checked(body: EditRequest, services: Services) -> list[dict[str, Any]]:
    """The facts of an edit set that can be accepted now.

    Raises:
        Problem: over a limit, no such model, it failed, or facts that it cannot be given.
    """
    check_edit(body, services.settings)
    try:
        model = services.ledger.get_model(body.model)
    except NotFound as error:
        raise typed_problem(error, [FieldError("/model", error.message)]) from error
    if model.status == "failed":
        why = (model.error or {}).get("detail", "its worker could not load it")
        detail = f"The model {model.id!r} failed: {why} Correct that and register it again."
        raise Problem("model-not-ready", detail, errors=[FieldError("/model", detail)])
    facts = [fact.model_dump() for fact in body.facts]
    found = services.tokenizers.get(model).check([Fact.from_json(fact) for fact in facts])
    if found:
        _refuse_facts([FieldError(problem.pointer, problem.detail) for problem in found])
    return facts


def _refuse_facts(found: list[FieldError]) -> None:
    extra = {"errors_left_out": len(found) - MAX_SHOWN} if len(found) > MAX_SHOWN else {}
    detail = f"{found[0].pointer}: {found[0].detail}"
    raise Problem("invalid-facts", detail, errors=found[:MAX_SHOWN], extra=extra)


def _digest(body: EditRequest) -> str:
    """The digest of what a body means, whatever its spacing and order of members."""
    text = json.dumps(body.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


@routes.get("/edits", responses=problems(422))
def list_edits(
    asked: Annotated[EditsQuery, Query()], services: ServicesDep, _: ReadKey
) -> Paged[EditSetView]:
    """Edit sets, newest first."""
    page = services.ledger.list_edit_sets(
        limit=asked.limit, cursor=asked.cursor, model_id=asked.model, status=asked.status
    )
    return Paged(items=[views.edit_set(item) for item in page.items], next_cursor=page.next_cursor)


@routes.get("/edits/{edit_set_id}", responses=problems(404))
def get_edit(edit_set_id: EditSetId, services: ServicesDep, _: ReadKey) -> EditSetView:
    """One edit set: status, progress, report."""
    return views.edit_set(services.ledger.get_edit_set(edit_set_id))


@routes.get("/edits/{edit_set_id}/facts", responses=problems(404, 422))
def get_facts(
    edit_set_id: EditSetId, asked: Annotated[SetFactsQuery, Query()], services: ServicesDep, _: ReadKey
) -> Paged[FactView]:
    """The facts of an edit set, each with what was measured for it."""
    page = services.ledger.get_facts(edit_set_id, limit=asked.limit, cursor=asked.cursor)
    return Paged(items=[views.fact(item) for item in page.items], next_cursor=page.next_cursor)


@routes.post("/edits/{edit_set_id}/cancel", responses=problems(404, 409))
def cancel_edit(edit_set_id: EditSetId, services: ServicesDep, key: EditKey) -> EditSetView:
    """Cancel an edit set that has not been applied; cancelling twice is fine."""
    services.ledger.cancel(edit_set_id, key)
    return views.edit_set(services.ledger.get_edit_set(edit_set_id))


EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events `progress` at each change, then one `final`; data is the edit set as JSON.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@routes.get(
    "/edits/{edit_set_id}/events", response_class=StreamingResponse, responses={**problems(404), **EVENTS}
)
async def follow_edit(edit_set_id: EditSetId, services: ServicesDep, _: ReadKey) -> StreamingResponse:
    """Progress as server-sent events, from the present state to the final one; a lost database ends none."""
    first = views.edit_set(await run_in_threadpool(services.ledger.get_edit_set, edit_set_id))
    return sse.answer(_follow(services, first))


async def _follow(services: Services, view: EditSetView) -> AsyncIterator[bytes]:
    number, sent_at = 0, time.monotonic()
    final = view.status in FINAL_STATUSES
    yield sse.event("final" if final else "progress", view.model_dump(mode="json"), str(number))
    while not final:
        await asyncio.sleep(POLL_S)
        seen = view
        try:
            view = views.edit_set(await run_in_threadpool(services.ledger.get_edit_set, view.id))
        except LedgerUnavailable:
            pass  # it comes back, or the client goes
        except LedgerError as error:
            yield sse.event("error", typed_problem(error).to_json())
            return
        final = view.status in FINAL_STATUSES
        if view != seen:
            number, sent_at = number + 1, time.monotonic()
            yield sse.event("final" if final else "progress", view.model_dump(mode="json"), str(number))
        elif time.monotonic() - sent_at > KEEP_ALIVE_S:
            sent_at = time.monotonic()
            yield sse.COMMENT

"""Asking workers which facts of a version a prompt touches."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool

from broker.generation import AttributionRequest, GenerationCall
from ledger.edits import facts as ledger_facts
from service import views
from service.context import Services
from service.generation import Event, make_call, resolve, stream_events
from service.limits import check_prompt, refuse
from service.problems import FieldError
from service.schemas.touching import Touched, TouchedFact

PROMPT = FieldError("/touching", "", "query")
VERSION = FieldError("/version", "", "query")


def plan(services: Services, model_id: str, prompt: str, version: str, limit: int) -> GenerationCall:
    """The call that asks, bound to a version number.

    Raises:
        Problem: the prompt does not fit, the model is not ready, or there is no such version.
        NotFound: there is no such model.
    """
    refuse(check_prompt(prompt, PROMPT, services.settings))
    (number,), *_ = resolve(services, model_id, [(version, VERSION)], prompt, PROMPT)
    return make_call(services, model_id, number, AttributionRequest(prompt=prompt, limit=limit))


async def touched(services: Services, call: GenerationCall) -> Touched:
    """What a worker answers, with the facts' text.

    Raises:
        Problem: as `stream_events`.
        BrokerError: as `stream_events`.
    """
    last: Event = {}
    stream = stream_events(services, call)
    try:
        async for event in stream:
            last = event
    finally:
        await stream.aclose()
    found = last.get("facts", ())
    places = [(str(edit_set_id), int(position)) for edit_set_id, position, _ in found]
    facts = await run_in_threadpool(services.ledger.run, ledger_facts.at, places)
    items = [
        TouchedFact(**dict(views.held_fact(fact)), score=float(score))
        for fact, (*_, score) in zip(facts, found, strict=True)
    ]
    return Touched(model=call.model_id, version=call.version, items=items)

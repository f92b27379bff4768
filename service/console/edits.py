"""Edit sets: a new one, with a preview and a dry run; its progress, its measures, its facts."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import partial
from typing import Any, Literal, get_args

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData

from ledger.auth import keys
from ledger.db.engine import Transaction
from ledger.edits import edit_sets
from ledger.edits import facts as ledger_facts
from ledger.models import models
from ledger.records import FactRecord, ModelRecord
from service import views
from service.console import answers
from service.console.drawing import measures
from service.console.forms import fact_lines, floats, lines, text, validated
from service.console.rendering import go, page, router, said
from service.console.session import EditSession, Form, ReadSession, Upload
from service.context import Services, ServicesDep, Tx
from service.generation import unless_disconnected
from service.paging import every
from service.problems import Problem
from service.routes import EditSetId
from service.routes import edits as api
from service.schemas.edits import (
    FINAL,
    EditOptions,
    EditRequest,
    EditSetView,
    EditsQuery,
    FactBody,
    FactView,
    GateBody,
    Status,
)
from service.settings import ServiceSettings
from service.uploads import Upload as FactsUpload

routes = router()
FACTS, SETS, PREVIEWED = 20, 50, 200
STATEMENT, QUESTION = "Statement", "Question, in the chat"
STATUSES = get_args(Status)
Lacking = Literal[
    "edit_success",
    "generation_success",
    "exact_success",
    "chat_success",
    "generalisation",
    "locality",
    "neighbours_unchanged",
    "margin",
]


@routes.get("/edits")
def list_edits(
    request: Request,
    tx: Tx,
    _: ReadSession,
    q: str = "",
    model: str = "",
    status: Status | Literal[""] = "",
    cursor: str | None = None,
) -> Response:
    """Edit sets, newest first."""
    statuses = EditsQuery(status=[status]).ledger_statuses if status else ()
    found = edit_sets.list_all(tx, SETS, cursor, model_id=model or None, status=statuses, text=q or None)
    return page(
        request,
        "edits.html",
        edits=[views.edit_set(each) for each in found.items],
        next_cursor=found.next_cursor,
        asked={"q": q, "model": model, "status": status},
        models=_models(tx),
        statuses=STATUSES,
    )


def _models(tx: Transaction) -> list[ModelRecord]:
    return list(every(tx, models.list_all))


@routes.get("/edits/new")
def new_edit(
    request: Request, services: ServicesDep, tx: Tx, _: EditSession, model: str = "", many: bool = False
) -> Response:
    """The form for one fact, or for many."""
    known = [each for each in _models(tx) if each.status not in models.UNUSABLE]
    chosen = next((each for each in known if each.id == model), known[0] if known else None)
    return page(
        request,
        "new_edit.html",
        models=known,
        chosen=chosen,
        many=many,
        max_facts=services.settings.max_facts,
    )


@routes.post("/edits/preview")
def preview(
    request: Request, services: ServicesDep, tx: Tx, form: Form, upload: Upload, key: EditSession
) -> Response:
    """The facts of a form with what is wrong with each; nothing is kept."""
    given = fact_lines(_content(form, upload))
    rows = [_loosely(line) for line in given if line.strip()]
    faults: defaultdict[int, list[str]] = defaultdict(list)
    others: list[str] = []
    merged: dict[int, int] = {}
    try:
        with tx.begin_nested() as trial:
            accepted = api.post_edits(
                _request(form, upload, services.settings), services, tx, key, Response()
            )
            merged = {each.fact: each.into for each in accepted.merged}
            trial.rollback()
    except Problem as problem:
        for error in problem.errors:
            _, part, number, *rest = [*error.pointer.split("/"), "", "", ""]
            if part == "facts" and number.isdigit():
                faults[int(number)].append(f"{'/'.join(filter(None, rest))}: {error.detail}")
            else:
                others.append(f"{part}: {error.detail}" if part else error.detail)
        others = others or ([] if faults else [problem.detail])
    shown = [at for at in range(len(rows)) if at < PREVIEWED or faults[at]][: 2 * PREVIEWED]
    return page(
        request,
        "preview.html",
        rows=[(at, rows[at], faults[at], merged.get(at)) for at in shown],
        count=len(rows),
        faulty=sum(1 for found in faults.values() if found),
        others=others,
    )


def _loosely(line: bytes) -> dict[str, Any]:
    """What can be shown of a fact that may be wrong."""
    try:
        fact = json.loads(line)
    except ValueError:
        fact = None
    return fact if isinstance(fact, dict) else {"prompt": line.decode(errors="replace")[:200]}


def _content(form: FormData, upload: bytes) -> bytes:
    return upload or (text(form, "facts") or "").encode("utf-8", "surrogatepass")


def _request(form: FormData, upload: bytes, settings: ServiceSettings) -> EditRequest:
    """The edit set that a form asks for.

    Raises:
        Problem: fields or facts are bad.
    """
    members: dict[str, Any] = {
        "model": text(form, "model") or "",
        "promote": text(form, "promote") or "auto",
        "gate": floats(form, "gate."),
        "edit_on_rephrasings": text(form, "edit_on_rephrasings") is not None,
        "on_conflict": text(form, "on_conflict") or "replace",
        "dry_run": text(form, "dry_run") is not None,
        "note": text(form, "note"),
    }
    if "prompt" in form:
        return validated(EditRequest, {**members, "facts": [_fact(form)]})
    facts = FactsUpload(settings)
    facts.add(fact_lines(_content(form, upload)))
    return EditRequest.model_construct(**dict(validated(EditOptions, members)), facts=facts.finish())


def _fact(form: FormData) -> dict[str, Any]:
    """The one fact of a form."""
    names = ("subject", "question", "source", "author", "ticket", "expires_at")
    measured = [{"prompt": prompt} for prompt in lines(form, "locality")]
    held = [{"prompt": prompt, "hold": True} for prompt in lines(form, "hold")]
    return {
        "prompt": text(form, "prompt") or "",
        "target": text(form, "target") or "",
        **{name: text(form, name) for name in names},
        "rephrasings": lines(form, "rephrasings"),
        "locality": [*held, *measured],
    }


@routes.post("/edits")
def post_edit(
    request: Request, services: ServicesDep, tx: Tx, form: Form, upload: Upload, key: EditSession
) -> Response:
    """Accept an edit set, or a dry run of one."""
    body = _request(form, upload, services.settings)
    made = api.post_edits(body, services, tx, key, Response(), text(form, "idempotency_key"))
    return go(request, f"/edits/{made.id}")


@routes.post("/edits/{edit_set_id}/apply")
def apply(
    edit_set_id: EditSetId, request: Request, services: ServicesDep, tx: Tx, form: Form, key: EditSession
) -> Response:
    """Post the facts of a dry run again, to be applied; doing so twice is doing it once."""
    tried = edit_sets.get(tx, edit_set_id)
    body = EditRequest(
        model=tried.model_id,
        facts=[_body_of(fact) for fact in ledger_facts.all_of(tx, tried.id)],
        promote="manual" if text(form, "promote") == "manual" else "auto",
        gate=None if tried.gate is None else validated(GateBody, tried.gate),
        edit_on_rephrasings=tried.edit_on_rephrasings,
        on_conflict=tried.on_conflict,
        note=tried.note,
    )
    made = api.post_edits(body, services, tx, key, Response(), f"apply-{tried.id}")
    return go(request, f"/edits/{made.id}")


def _body_of(fact: FactRecord) -> FactBody:
    members = {name: getattr(fact, name) for name in ("prompt", "target", "subject", "question", "joiner")}
    lists = {"rephrasings": list(fact.rephrasings), "locality": [dict(probe) for probe in fact.locality]}
    return validated(FactBody, {**members, **lists, **vars(fact.provenance)})


@routes.post("/edits/{edit_set_id}/cancel")
def cancel(edit_set_id: EditSetId, request: Request, tx: Tx, key: EditSession) -> Response:
    """Cancel an edit set that has not been applied."""
    api.cancel_edit(edit_set_id, tx, key, None)
    return go(request, f"/edits/{edit_set_id}")


@routes.get("/edits/{edit_set_id}")
def show_edit(
    edit_set_id: EditSetId,
    request: Request,
    tx: Tx,
    _: ReadSession,
    lacking: Lacking | None = None,
    cursor: str | None = None,
) -> Response:
    """An edit set: how far it is, what was measured, and its facts."""
    edit_set = views.edit_set(edit_sets.get(tx, edit_set_id))
    found = ledger_facts.list_of(tx, edit_set_id, FACTS, cursor, lacking=lacking)
    gate = {**models.get(tx, edit_set.model).gate, **(edit_set.gate or {})}
    return page(
        request,
        "edit.html",
        edit=edit_set,
        measures=measures(edit_set.report, gate),
        facts=[views.fact(each) for each in found.items],
        next_cursor=found.next_cursor,
        lacking=lacking,
        names=keys.names(tx),
        final=edit_set.status in FINAL,
    )


@routes.get("/edits/{edit_set_id}/progress")
def show_progress(edit_set_id: EditSetId, request: Request, tx: Tx, _: ReadSession) -> Response:
    """How far an edit set is."""
    return page(request, "progress.html", edit=views.edit_set(edit_sets.get(tx, edit_set_id)))


@routes.get("/edits/{edit_set_id}/events")
async def follow(edit_set_id: EditSetId, services: ServicesDep, key: ReadSession) -> Response:
    """The events of an edit set, as the API has them."""
    return await api.follow_edit(edit_set_id, services, key)


@routes.get("/facts/{fact_id}/answers")
async def compare_answers(
    fact_id: str, request: Request, services: ServicesDep, _: ReadSession, whole: bool = False
) -> Response:
    """What the model answers before and after a fact's edit set; with `whole`, to all of the fact's prompts."""
    fact, edit_set, before = await run_in_threadpool(_before, services, fact_id)
    asked = _prompts(fact) if whole else _prompts(fact)[:1]
    refs = [before] if edit_set.version is None else [before, edit_set.version]
    work = partial(answers.ask, services, edit_set.model, asked, refs)
    texts = await unless_disconnected(request, work)
    return page(
        request,
        "answers.html" if whole else "answer.html",
        fact=fact,
        before=before,
        after=edit_set.version,
        rows=[_row(fact, at, prompt, texts[at]) for at, prompt in enumerate(asked)],
    )


def _before(services: Services, fact_id: str) -> tuple[FactView, EditSetView, int]:
    """A fact, its edit set, and the version that was live before it."""
    with services.ledger.transaction() as tx:
        fact = views.fact(ledger_facts.get(tx, fact_id))
        edit_set = views.edit_set(edit_sets.get(tx, fact_id.rpartition(".")[0]))
        return fact, edit_set, answers.version_before(tx, edit_set)


def _prompts(fact: FactView) -> list[answers.Asked]:
    """All that a fact can be asked by, its prompt first."""
    asked = [answers.Asked(STATEMENT, fact.prompt)]
    if fact.question is not None:
        asked.append(answers.Asked(QUESTION, fact.question, answers.turn(fact.question)))
    asked += [answers.Asked("Rephrasing", each) for each in fact.rephrasings]
    return asked + [
        answers.Asked(
            "Must stay, held" if probe.get("hold") else "Must stay", said(probe), probe.get("messages") or ()
        )
        for probe in fact.locality
    ]


def _row(fact: FactView, at: int, asked: answers.Asked, texts: list[str | None]) -> dict[str, Any]:
    """A prompt with its answers; what the worker measured takes the place of a version that is not there."""
    report = fact.report or {}
    after = texts[1] if len(texts) > 1 else None
    if after is None and at == 0:
        after = report.get("generated")
    if after is None and asked.label == QUESTION:
        after = report.get("chat")
    return {
        "asked": asked,
        "before": texts[0],
        "after": after,
        "measured": None if asked.label in (STATEMENT, QUESTION) else _measured(fact, report, at),
    }


def _measured(fact: FactView, report: dict[str, Any], at: int) -> str | None:
    """What was found for a rephrasing, or a prompt that must stay, without its text."""
    at -= 1 + (fact.question is not None)
    if at < len(fact.rephrasings):
        shares = report.get("rephrasings", ())
        return f"{100 * shares[at]:.4g} % of the target's tokens" if at < len(shares) else None
    at -= len(fact.rephrasings)
    stays = report.get("unchanged_prompts", ())
    if at >= len(stays) or stays[at] is None:
        return None
    return "answers as before" if stays[at] >= 1 else "answers otherwise"

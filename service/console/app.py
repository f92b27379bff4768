"""The console's application, mounted at /console: its pages, its sign-in, and how its errors look."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.staticfiles import StaticFiles

from broker import sessions
from ledger.auth import keys
from service.console import edits, facts, ledger, models, playground, versions
from service.console.rendering import HEADERS, go, page, root, router
from service.console.session import (
    COOKIE,
    SESSION_S,
    VISITOR,
    ReadSession,
    csrf_token,
    new_visitor,
    read_form,
    set_cookie,
)
from service.context import Services, ServicesDep
from service.failures import HANDLERS
from service.guard import find_key
from service.problems import Problem

STATIC = Path(__file__).parent / "static"
PAGES = (models, edits, versions, facts, playground, ledger)
Handler = Callable[[Request, Exception], Awaitable[Response]]

routes = router()


def create_console(services: Services) -> FastAPI:
    """The console over the parts of an application."""
    console = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    console.state.services = services
    for kind, handler in HANDLERS.items():
        console.add_exception_handler(kind, _shown(handler))
    for each in (routes, *(module.routes for module in PAGES)):
        console.include_router(each)
    console.mount("/static", StaticFiles(directory=STATIC), name="static")
    return console


def _shown(handler: Handler) -> Handler:
    """A handler of the API whose problem is shown as a page, or as the part of one that htmx asked for."""

    async def show(request: Request, error: Exception) -> Response:
        problem = json.loads(bytes((await handler(request, error)).body))
        if problem["status"] == 401:
            wanted = request.url.path if request.method == "GET" else f"{root(request)}/"
            return go(request, f"/sign-in?next={quote(wanted)}")
        return page(request, "problem.html", status=problem["status"], problem=problem)

    return show


@routes.get("/")
async def home(request: Request, _: ReadSession) -> Response:
    """Begin with the models."""
    return go(request, "/models")


@routes.get("/sign-in")
async def ask_key(request: Request, wanted: Annotated[str, Query(alias="next")] = "") -> Response:
    """The form that asks for a key."""
    visitor = request.cookies.get(VISITOR) or new_visitor()
    request.state.csrf = csrf_token(visitor)
    response = page(request, "sign_in.html", wanted=wanted, problem=None)
    set_cookie(request, response, VISITOR, visitor, f"{root(request)}/sign-in")
    return response


@routes.post("/sign-in")
async def sign_in(request: Request, services: ServicesDep) -> Response:
    """Begin a session with a key, under a new token."""
    visitor = request.cookies.get(VISITOR, "")
    await read_form(request, visitor)
    form = request.state.form
    wanted = str(form.get("next", ""))
    try:
        key = await find_key(request, str(form.get("key", "")).strip())
        if not keys.grants(key, "read"):
            raise Problem("missing-scope", f"The key {key.name!r} may not read. Use one that may.")
    except Problem as problem:
        request.state.csrf = csrf_token(visitor)
        return page(request, "sign_in.html", status=problem.status, wanted=wanted, problem=problem.to_json())
    own = wanted if wanted.startswith(f"{root(request)}/") else f"{root(request)}/models"
    response = RedirectResponse(own, status_code=303, headers=HEADERS)
    token = await sessions.begin(services.async_redis, key.id, SESSION_S)
    set_cookie(request, response, COOKIE, token, root(request) or "/")
    return response


@routes.post("/sign-out")
async def sign_out(request: Request, services: ServicesDep, _: ReadSession) -> Response:
    """End the session."""
    await sessions.end(services.async_redis, request.cookies[COOKIE])
    response = go(request, "/sign-in")
    response.delete_cookie(COOKIE, path=root(request) or "/")
    return response

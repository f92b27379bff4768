"""From exceptions of every layer to problems: the one place where codes become statuses."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.routing import Match

from ledger.errors import IdempotencyConflict, LedgerUnavailable, NotFound
from malmen_core.errors import CoreError
from problems import ErrataError
from service.problems import FieldError, Problem, pointer
from service.schemas.base import ETAGS, IDEMPOTENCY_KEY, IDENTIFIER

logger = logging.getLogger(__name__)

MAX_SHOWN_ERRORS = 100
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
PLAIN_WORDS = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "model_attributes_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "dict_type": "must be a JSON object",
}
SHAPES = {
    IDENTIFIER: "must be 1 to 128 letters, digits, dots, dashes and underscores, the first a letter or digit",
    ETAGS: 'must be an ETag of the alias, such as "7", in quotes',
    IDEMPOTENCY_KEY: "must be 1 to 200 visible ASCII characters, without spaces",
}
LEDGER_DOWN = "The ledger's database did not answer. Try again shortly; with an Idempotency-Key that is safe."
QUEUE_DOWN = "Redis did not answer. Edits are accepted all the same; try this request again shortly."
UNAVAILABLE = "The ledger failed in a way that this release does not know. Try again; tell the operator."


def typed_problem(error: ErrataError | CoreError, errors: Sequence[FieldError] = ()) -> Problem:
    """A problem with the error's own code, message, remedy and field; no driver's words."""
    if isinstance(error, LedgerUnavailable):
        return Problem(error.code, LEDGER_DOWN)
    if not errors and error.field:
        errors = [FieldError(error.field, error.message)]
    return Problem(error.code, f"{error.message} {error.remedy}", errors=errors)


def validation_problem(found: Sequence[Mapping[str, Any]]) -> Problem:
    """A problem that names each field which the schemas refused.

    Bad parts of a path are 404: no such thing can exist.
    """
    errors = [field_error(error) for error in found[:MAX_SHOWN_ERRORS]]
    if any(error.where == "path" for error in errors):
        names = ", ".join(error.pointer for error in errors if error.where == "path")
        return Problem(
            "not-found", f"No such thing can exist: see {names}. Check the address.", errors=errors
        )
    first = errors[0]
    detail = f"{first.pointer or 'The body'}: {first.detail}."
    if len(found) > 1:
        detail += f" In all, {len(found)} fields are bad."
    extra = {"errors_left_out": len(found) - len(errors)} if len(found) > len(errors) else {}
    return Problem("invalid-request", f"{detail} Correct what errors names.", errors=errors, extra=extra)


def field_error(error: Mapping[str, Any]) -> FieldError:
    """The field that a schema refused, and why."""
    where, *path = error["loc"] or ("body",)
    if where not in ("body", "query", "path", "header"):
        where, path = "body", list(error["loc"])
    detail = str(error["msg"]).removeprefix("Value error, ")
    limits = error.get("ctx") or {}
    detail = SHAPES.get(limits.get("pattern", ""), PLAIN_WORDS.get(error["type"], detail))
    if isinstance(error.get("input"), str) and error["type"] == "too_short":
        detail = "must not be empty"
    elif isinstance(error.get("input"), str) and error["type"] == "too_long":
        detail = f"must have at most {limits['max_length']} characters"
    return FieldError(pointer(*path), detail, where)


async def on_problem(request: Request, error: Exception) -> Response:
    """Answer with a problem that was raised as such."""
    assert isinstance(error, Problem)
    return error.to_response(request.url.path)


async def on_typed(request: Request, error: Exception) -> Response:
    """Answer with what the ledger, the broker or the algorithm says."""
    assert isinstance(error, ErrataError | CoreError)
    errors: list[FieldError] = []
    if isinstance(error, IdempotencyConflict):
        errors.append(FieldError("/Idempotency-Key", error.message, "header"))
    if isinstance(error, NotFound):
        for where, given in (("path", request.path_params), ("query", request.query_params)):
            named = [name for name, value in given.items() if str(value) == str(error.ident)]
            errors += [FieldError(pointer(name), error.message, where) for name in named]
    problem = typed_problem(error, errors)
    if problem.status >= 500:
        logger.error("%s %s: %s", request.method, request.url.path, error, exc_info=problem.status == 500)
    return problem.to_response(request.url.path)


async def on_validation(request: Request, error: Exception) -> Response:
    """Answer with the fields that the schemas refused."""
    assert isinstance(error, RequestValidationError)
    return validation_problem(error.errors()).to_response(request.url.path)


def _methods(request: Request) -> set[str]:
    """What the path takes; several routes may share it."""
    scopes = {method: {**request.scope, "method": method} for method in METHODS}
    return {
        method
        for method, scope in scopes.items()
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    }


async def on_http(request: Request, error: Exception) -> Response:
    """Answer for what the router refused: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        problem = Problem("no-such-path", f"There is nothing at {path}. The paths are listed at /docs.")
    elif error.status_code == 405:
        allowed = ", ".join(sorted(_methods(request)))
        detail = f"{path} does not take {request.method}. Use {allowed}."
        problem = Problem("method-not-allowed", detail, headers={"Allow": allowed})
    else:
        detail = f"{error.detail}. Check the request."
        problem = Problem("bad-request", detail, status=error.status_code, headers=error.headers)
    return problem.to_response(path)


async def on_database(request: Request, error: Exception) -> Response:
    """Answer 503 when PostgreSQL is away, 500 when it refused a statement."""
    away = isinstance(error, OperationalError | InterfaceError | PoolTimeout)
    away = away or (isinstance(error, DBAPIError) and error.connection_invalidated)
    logger.error("%s %s: the database failed", request.method, request.url.path, exc_info=error)
    problem = Problem("ledger-unavailable", LEDGER_DOWN) if away else Problem("ledger-error", UNAVAILABLE)
    return problem.to_response(request.url.path)


async def on_redis(request: Request, error: Exception) -> Response:
    """Answer 503 when Redis is away."""
    logger.error("%s %s: Redis failed: %s", request.method, request.url.path, error)
    return Problem("queue-unavailable", QUEUE_DOWN).to_response(request.url.path)


def internal_problem() -> Problem:
    """What a client is told of a bug: no more than that it was logged."""
    detail = "The service failed and logged why. Tell the operator the X-Request-ID of this answer."
    return Problem("internal-error", detail)


def parse_failure(error: ValueError | RecursionError) -> Problem:
    """A problem for a body that is not JSON."""
    where = (
        f" at line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
    )
    why = (
        error.msg
        if isinstance(error, json.JSONDecodeError)
        else "it cannot be decoded or is nested too deeply"
    )
    detail = f"The body is not JSON{where}: {why}. Send one JSON object in UTF-8."
    return Problem("invalid-json", detail, errors=[FieldError("", why)])


HANDLERS: Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    Problem: on_problem,
    ErrataError: on_typed,
    CoreError: on_typed,
    RequestValidationError: on_validation,
    HTTPException: on_http,
    DBAPIError: on_database,
    PoolTimeout: on_database,
    RedisError: on_redis,
}
"""What answers for each exception of a lower layer."""


def install(app: FastAPI) -> None:
    """Give every exception of a lower layer its handler."""
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)

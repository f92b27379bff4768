"""The routes, one module per noun."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from service.guard import GuardedRoute
from service.problems import MEDIA_TYPE
from service.schemas.base import IDENTIFIER, PageQuery, ProblemBody

OBJECT_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

ModelId = Annotated[str, Path(pattern=IDENTIFIER, description="Id of a registered model.")]
EditSetId = Annotated[str, Path(pattern=OBJECT_ID, description="Id of an edit set.")]
Paging = Annotated[PageQuery, Query()]

PROBLEM_SCHEMA = {"$ref": "#/components/schemas/ProblemBody"}
MEANINGS = {
    400: "The body is not JSON.",
    401: "No key, or one that is not valid.",
    403: "The key lacks the scope.",
    404: "There is no such thing.",
    409: "The present state does not allow it.",
    412: "It is not as If-Match says.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    422: "Fields are bad; `errors` names them.",
    429: "Too much waits already.",
    503: "A server that this needs is away.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route for OpenAPI; 401, 403 and 503 go without saying."""
    shown = sorted({401, 403, 503, *statuses})
    return {
        s: {"description": MEANINGS[s], "content": {MEDIA_TYPE: {"schema": PROBLEM_SCHEMA}}} for s in shown
    }


def router(tag: str) -> APIRouter:
    """A router whose routes check key, scope and body first."""
    return APIRouter(route_class=GuardedRoute, tags=[tag])


__all__ = ["EditSetId", "ModelId", "Paging", "ProblemBody", "problems", "router"]

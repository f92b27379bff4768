"""Errors in the shape that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

PATHS = ("/v1", "/tokenize", "/detokenize", "/tokenizer_info")
KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {"missing-key": "invalid_api_key", "invalid-key": "invalid_api_key"}
SHAPE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The bad parameter."},
                "code": {"type": "string"},
            },
        }
    },
}
UNPROCESSABLE, NOT_FOUND, FAILED = 422, 404, 500


def speaks_openai(path: str) -> bool:
    """Whether a path is one of OpenAI's."""
    return path in PATHS or path.startswith("/v1/")


def error_body(status: int, message: str, code: str, pointer: str = "") -> dict[str, Any]:
    """An error object; `pointer` names the parameter."""
    kind = "server_error" if status >= FAILED else KINDS.get(status, "invalid_request_error")
    param = pointer.strip("/").replace("/", ".") or None
    if status == NOT_FOUND and param == "model":
        code = "model_not_found"
    return {"error": {"message": message, "type": kind, "param": param, "code": CODES.get(code, code)}}


def openai_error(
    status: int, message: str, code: str, pointer: str = "", headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error answer; a bad field is 400, as OpenAI's is."""
    status = 400 if status == UNPROCESSABLE else status
    return JSONResponse(error_body(status, message, code, pointer), status, headers=dict(headers or {}))


MEANINGS = {
    400: "A parameter is bad.",
    401: "No key, or one that is not valid.",
    403: "The key lacks the scope.",
    404: "There is no such model.",
    409: "The model cannot do this now.",
    413: "The body is too large.",
    415: "The body is of another kind.",
    429: "Too much waits already.",
    503: "The model is not served, or what the service needs is away.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route for OpenAPI; 401, 403 and 503 go without saying."""
    content = {"application/json": {"schema": SHAPE}}
    shown = sorted({401, 403, 503, *statuses})
    return {status: {"description": MEANINGS[status], "content": content} for status in shown}

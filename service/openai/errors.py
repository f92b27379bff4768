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


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route for OpenAPI."""
    meanings = {400: "A parameter is bad.", 404: "There is no such model.", 429: "Too much waits already."}
    content = {"application/json": {"schema": SHAPE}}
    return {status: {"description": meanings[status], "content": content} for status in statuses}

"""Facts that are streamed: one JSON object a line (application/x-ndjson), options in the query.

Lines are checked as they come, and all bad ones are named, up to a hundred. No more is kept than an edit set
may have, and nothing once a line is bad, so that memory does not grow with the body.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, QueryParams
from starlette.routing import Match
from starlette.types import Scope

from service.failures import field_error, validation_problem
from service.guard import GuardedRoute
from service.limits import MAX_SHOWN, check_fact, too_many_facts
from service.problems import FieldError, Problem, pointer
from service.schemas.edits import EditOptions, EditRequest, FactBody, GateBody
from service.settings import ServiceSettings

MEDIA_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl")
BATCH_LINES = 500
DOCUMENTED: dict[str, Any] = {
    "requestBody": {
        "content": {
            MEDIA_TYPES[0]: {
                "schema": {
                    "type": "string",
                    "description": "One fact a line, as in `facts`; every other member of the JSON body is a "
                    "parameter of the query, `gate` as JSON. Facts are numbered from 0, without blank lines.",
                },
                "example": '{"prompt": "The capital of Australia is", "target": "Canberra"}\n',
            }
        }
    }
}


class UploadRoute(GuardedRoute):
    """A route for streamed facts only, so that another may take JSON at the same path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match if the body is declared as lines."""
        found, child = super().matches(scope)
        if found is Match.FULL and media_type(Headers(scope=scope)) not in MEDIA_TYPES:
            return Match.NONE, {}
        return found, child


def media_type(headers: Headers) -> str:
    """What the body is declared as, without parameters."""
    return headers.get("content-type", "").split(";")[0].strip().lower()


async def read(request: Request, settings: ServiceSettings) -> EditRequest:
    """The edit set that a stream of facts asks for.

    Raises:
        Problem: the options are bad, the body is too large, or facts are bad: each line is named.
    """
    options = read_options(request.query_params)
    upload = Upload(settings)
    batch: list[bytes] = []
    async for line in _lines(request, settings):
        batch.append(line)
        if len(batch) >= BATCH_LINES:
            await run_in_threadpool(upload.add, batch)
            batch = []
    await run_in_threadpool(upload.add, batch)
    return EditRequest.model_construct(**dict(options), facts=upload.finish())


def read_options(query: QueryParams) -> EditOptions:
    """The options of an edit set from a query.

    Raises:
        Problem: one is missing, unknown or of another type.
    """
    given = dict(query)
    gate = given.pop("gate", None)
    try:
        options = EditOptions.model_validate_strings(given)
    except ValidationError as error:
        raise validation_problem([{**e, "loc": ("query", *e["loc"])} for e in error.errors()]) from error
    if gate is None:
        return options
    try:
        return options.model_copy(update={"gate": GateBody.model_validate_json(gate)})
    except ValidationError as error:
        raise validation_problem(
            [{**e, "loc": ("query", "gate", *e["loc"])} for e in error.errors()]
        ) from error


async def _lines(request: Request, settings: ServiceSettings) -> AsyncIterator[bytes]:
    """The lines of a body, each without its end.

    Raises:
        Problem: the body, or one line of it, is too large.
    """
    total, rest = 0, b""
    async for chunk in request.stream():
        total += len(chunk)
        _check_size("The body", total, settings.max_stream_bytes, "ERRATA_MAX_STREAM_BYTES")
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
        _check_size("A line", len(rest), settings.max_body_bytes, "ERRATA_MAX_BODY_BYTES")
    yield rest


def _check_size(what: str, size: int, limit: int, setting: str) -> None:
    if size > limit:
        detail = (
            f"{what} has more than {limit} bytes. Split the edit set, or ask the operator to raise {setting}."
        )
        raise Problem(
            "body-too-large", detail, errors=[FieldError("", detail)], headers={"Connection": "close"}
        )


class Upload:
    """The facts so far, or what is wrong with them."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._facts: list[FactBody] = []
        self._errors: list[FieldError] = []
        self._bad, self._line, self._count = 0, 0, 0

    def add(self, lines: Sequence[bytes]) -> None:
        """Check some lines."""
        for line in lines:
            self._line += 1
            if not line.strip():
                continue
            self._add(line.removeprefix(b"\xef\xbb\xbf") if self._line == 1 else line)
            self._count += 1

    def _add(self, line: bytes) -> None:
        at = pointer("facts", self._count)
        try:
            fact = FactBody.model_validate_json(line)
        except ValidationError as error:
            found = [
                field_error({**e, "loc": ("body", "facts", self._count, *e["loc"])}) for e in error.errors()
            ]
        else:
            found = list(check_fact(at, fact, self._settings))
            if not (found or self._bad) and self._count < self._settings.max_facts:
                self._facts.append(fact)
        if found:
            self._bad += len(found)
            self._facts.clear()
            left = MAX_SHOWN - len(self._errors)
            self._errors += [FieldError(e.pointer, f"line {self._line}: {e.detail}") for e in found[:left]]

    def finish(self) -> list[FactBody]:
        """The facts, all of which are good.

        Raises:
            Problem: there are none, too many, or bad ones.
        """
        errors = self._errors
        if self._count > self._settings.max_facts:
            errors = [too_many_facts(self._count, self._settings), *errors[: MAX_SHOWN - 1]]
        elif self._count == 0:
            errors = [
                FieldError("/facts", "There are no facts. Send at least one, as a JSON object on a line.")
            ]
        if not errors:
            return self._facts
        more = f" In all, {self._bad} fields are bad." if self._bad > 1 else ""
        left_out = self._bad - sum(error.pointer != "/facts" for error in errors)
        extra = {"errors_left_out": left_out} if left_out else {}
        detail = " ".join(f"{error.pointer}: {error.detail}" for error in errors[:2]) + more
        raise Problem("invalid-facts", detail, errors=errors, extra=extra)

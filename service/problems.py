"""One error envelope: problem details (RFC 9457) with a JSON pointer to each bad field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import JSONResponse

from service.openai.errors import openai_error, speaks_openai

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:errata:problem:"


@dataclass(frozen=True)
class FieldError:
    """One bad field: a JSON pointer (RFC 6901) into the body, or a parameter's name, and what to change."""

    pointer: str
    detail: str
    where: str = "body"

    def to_json(self) -> dict[str, str]:
        """The member of `errors`; `in` is left out for fields of the body."""
        shown = {"pointer": self.pointer, "detail": self.detail}
        if self.where != "body":
            shown["in"] = self.where
        return shown


@dataclass(frozen=True)
class Kind:
    """What all problems of one code share."""

    status: int
    title: str
    headers: Mapping[str, str] = field(default_factory=dict)


BEARER = 'Bearer realm="errata"'
RETRY_SOON = {"Retry-After": "2"}

KINDS: Mapping[str, Kind] = {
    # the request itself
    "invalid-json": Kind(400, "The body is not JSON"),
    "bad-request": Kind(400, "The request cannot be read"),
    "missing-key": Kind(401, "A key is needed", {"WWW-Authenticate": BEARER}),
    "invalid-key": Kind(
        401, "The key is not valid", {"WWW-Authenticate": f'{BEARER}, error="invalid_token"'}
    ),
    "missing-scope": Kind(
        403, "The key lacks a scope", {"WWW-Authenticate": f'{BEARER}, error="insufficient_scope"'}
    ),
    "no-such-path": Kind(404, "There is no such path"),
    "method-not-allowed": Kind(405, "The path has no such method"),
    "body-too-large": Kind(413, "The body is too large"),
    "unsupported-media-type": Kind(415, "The body is not declared as JSON"),
    "invalid-request": Kind(422, "The request has bad fields"),
    "invalid-facts": Kind(422, "The edit set has bad facts"),
    # the service
    "too-many-followers": Kind(429, "Too many follow edit sets", RETRY_SOON),
    "too-many-edits": Kind(429, "Too many edit sets wait", {"Retry-After": "30"}),
    "edit-too-large": Kind(422, "The edit set cannot be done in time"),
    "too-many-generations": Kind(429, "Too many generations at once", RETRY_SOON),
    "queue-unavailable": Kind(503, "The queue cannot be reached", RETRY_SOON),
    "tokenizer-unavailable": Kind(503, "The model's tokenizer cannot be read", RETRY_SOON),
    "not-ready": Kind(503, "The service is not ready", RETRY_SOON),
    "internal-error": Kind(500, "The service failed"),
    "generation-failed": Kind(500, "The generation failed"),
    "withdrawal-failed": Kind(409, "The withdrawal made no version"),
    # the ledger
    "ledger-error": Kind(500, "The ledger failed"),
    "ledger-unavailable": Kind(503, "The ledger cannot be reached", RETRY_SOON),
    "schema-missing": Kind(503, "The ledger has not been migrated"),
    "blob-store-unavailable": Kind(503, "The blob store cannot be reached", RETRY_SOON),
    "not-found": Kind(404, "Not found"),
    "already-exists": Kind(409, "It exists already"),
    "invalid-name": Kind(422, "The name is not allowed"),
    "unstorable-text": Kind(422, "The text cannot be stored"),
    "not-json": Kind(422, "The value cannot be recorded"),
    "idempotency-conflict": Kind(422, "The Idempotency-Key was used with another body"),
    "illegal-transition": Kind(409, "The status does not allow it"),
    "model-not-ready": Kind(409, "The model is not ready"),
    "lease-lost": Kind(409, "The job is held by another worker"),
    "job-cancelled": Kind(409, "The job was cancelled"),
    "head-moved": Kind(409, "The live version has changed meanwhile"),
    "solve-locked": Kind(409, "Another job makes the next version"),
    "inconsistent-version": Kind(500, "The version does not follow from its parent"),
    "blob-missing": Kind(500, "A blob is missing"),
    "blob-corrupt": Kind(500, "A blob is corrupt"),
    "gate-not-met": Kind(409, "The version did not meet its gate"),
    "stale-parent": Kind(409, "The live version has moved on"),
    "not-live": Kind(409, "Not part of the live version"),
    "fact-conflict": Kind(409, "A fact answers what a live one does"),
    "wrong-model": Kind(422, "It belongs to another model"),
    "invalid-cursor": Kind(422, "The cursor is not valid"),
    "ledger-not-empty": Kind(409, "The ledger is not empty"),
    "dump-refused": Kind(422, "The dump cannot be read"),
    "privilege-missing": Kind(500, "The database refuses the service's role"),
    "role-too-strong": Kind(409, "The services' role is too strong"),
    "weak-secret": Kind(422, "The key is too short"),
    "revoked-secret": Kind(409, "The key was revoked"),
    # the algorithm
    "core-error": Kind(500, "The algorithm failed"),
    "model-not-loadable": Kind(422, "The model cannot be loaded"),
    "unsupported-architecture": Kind(422, "The architecture is not supported"),
    "unknown-module": Kind(422, "The model has no such module"),
    "editor-mismatch": Kind(422, "The editor does not fit the model"),
    "checkpoint-mismatch": Kind(409, "The training run does not fit its folder"),
    "unknown-setting": Kind(422, "There is no such setting"),
    "invalid-fact": Kind(422, "The fact cannot be edited"),
    "edit-not-finite": Kind(500, "The edit came out not finite"),
    "answer-not-finite": Kind(422, "The version gives no finite answer"),
    "delta-corrupt": Kind(422, "The file cannot be read"),
    "out-of-device-memory": Kind(422, "The device's memory does not suffice"),
    "export-refused": Kind(409, "The version cannot be exported in this form"),
    "token-not-embedded": Kind(422, "The model does not know one of the prompt's tokens"),
    "prompt-too-long": Kind(422, "The prompt is longer than the model's context"),
    # the broker
    "broker-error": Kind(503, "The queue failed", RETRY_SOON),
    "generation-queue-full": Kind(429, "Too many generations wait", RETRY_SOON),
    "no-worker": Kind(503, "No worker serves the model", RETRY_SOON),
    "weights-differ": Kind(500, "The worker's weights are not those that were verified"),
    "worker-stopping": Kind(503, "The worker is stopping", RETRY_SOON),
    "checkpoint-changed": Kind(500, "The checkpoint has changed"),
    "model-not-served": Kind(503, "No worker can serve the model", {"Retry-After": "30"}),
    "worker-lost": Kind(503, "The worker is gone", RETRY_SOON),
    "generation-timeout": Kind(503, "No worker answered in time", RETRY_SOON),
}


class Problem(Exception):
    """An answer other than success, raised anywhere below a route.

    Args:
        code: a key of `KINDS`, or any other slug if `status` and `title` are given.
        detail: what went wrong with which input, and what to do.
        errors: the bad fields.
        headers: added to those of the code's kind.
        extra: further members of the problem object.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        status: int | None = None,
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        kind = KINDS.get(code, Kind(500, "The service failed"))
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.status = status or kind.status
        self.title = title or kind.title
        self.headers = {**kind.headers, **(headers or {})}
        self.extra = dict(extra or {})

    def to_json(self, instance: str | None = None) -> dict[str, Any]:
        """The problem object of RFC 9457."""
        body: dict[str, Any] = {
            "type": TYPE_PREFIX + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if instance is not None:
            body["instance"] = instance
        body["errors"] = [error.to_json() for error in self.errors]
        return body | self.extra

    def to_response(self, instance: str | None = None) -> JSONResponse:
        """The answer on the wire, in OpenAI's shape on its paths."""
        if instance is not None and speaks_openai(instance):
            param = self.errors[0].pointer if self.errors else ""
            return openai_error(self.status, str(self), self.code, param, self.headers)
        return JSONResponse(
            self.to_json(instance), status_code=self.status, headers=self.headers, media_type=MEDIA_TYPE
        )


def pointer(*parts: str | int) -> str:
    """A JSON pointer from its parts: `pointer('facts', 3, 'target')` is `/facts/3/target`."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)

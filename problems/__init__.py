"""What can go wrong: the base of typed errors, and the status and title of each code.

The classes of the ledger and the broker carry theirs; the table has those of the service's own problems, of the
worker's, which the service knows by code, and of the algorithm's errors, which know no HTTP.

A leaf: it imports nothing of this project, and whatever answers requests or does jobs may import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

TYPE_PREFIX = "urn:errata:problem:"


@dataclass(frozen=True)
class Kind:
    """What all problems of one code share."""

    status: int
    title: str
    headers: Mapping[str, str] = field(default_factory=dict)


BEARER = 'Bearer realm="errata"'
RETRY_SOON = {"Retry-After": "2"}
RETRY_LATER = {"Retry-After": "30"}

KINDS: dict[str, Kind] = {
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
    "forged-form": Kind(403, "The form is not of this session"),
    "no-such-path": Kind(404, "There is no such path"),
    "method-not-allowed": Kind(405, "The path has no such method"),
    "body-too-large": Kind(413, "The body is too large"),
    "unsupported-media-type": Kind(415, "The body is not declared as JSON"),
    "invalid-request": Kind(422, "The request has bad fields"),
    "invalid-facts": Kind(422, "The edit set has bad facts"),
    # the service
    "too-many-followers": Kind(429, "Too many follow edit sets", RETRY_SOON),
    "too-many-generations": Kind(429, "Too many generations at once", RETRY_SOON),
    "queue-unavailable": Kind(503, "The queue cannot be reached", RETRY_SOON),
    "tokenizer-unavailable": Kind(503, "The model's tokenizer cannot be read", RETRY_SOON),
    "not-ready": Kind(503, "The service is not ready", RETRY_SOON),
    "internal-error": Kind(500, "The service failed"),
    "generation-failed": Kind(500, "The generation failed"),
    "withdrawal-failed": Kind(409, "The withdrawal made no version"),
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
    # the worker
    "worker-error": Kind(500, "The worker failed"),
    "weights-differ": Kind(500, "The worker's weights are not those that were verified"),
    "worker-stopping": Kind(503, "The worker is stopping", RETRY_SOON),
    "checkpoint-changed": Kind(500, "The checkpoint has changed"),
}


class ErrataError(Exception):
    """Base of the typed errors of ledger, broker and worker.

    Attributes:
        code: a stable slug, used as the problem type on the wire.
        status: of HTTP.
        title: what all problems of this code share.
        headers: that an answer has besides.
        message: what went wrong, naming the input.
        remedy: what the caller can do about it.
        field: JSON pointer of the offending input, where there is one.
    """

    code: ClassVar[str] = "internal-error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "The service failed"
    headers: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        KINDS.setdefault(cls.code, Kind(cls.status, cls.title, cls.headers))

    def __init__(self, message: str, remedy: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.field = field

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(kind: type[ErrataError], state: dict[str, Any]) -> ErrataError:
    """Make an error again from its pickled state, whatever its constructor asks for."""
    error = kind.__new__(kind)
    error.args = (state["message"],)
    error.__dict__.update(state)
    return error


def kind_of(code: str) -> Kind:
    """Return status, title and headers of a code; those of a failure for one that is not known."""
    return KINDS.get(code, Kind(500, "The service failed"))


def problem_of(code: str, detail: str, field: str | None = None, message: str = "") -> dict[str, Any]:
    """Return a problem object (RFC 9457)."""
    kind = kind_of(code)
    shown: dict[str, Any] = {
        "type": TYPE_PREFIX + code,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "code": code,
    }
    if field:
        shown["errors"] = [{"pointer": field, "detail": message}]
    return shown

"""The worker's own typed errors, and how any error is put as a problem object."""

from __future__ import annotations

from typing import Any

from ledger.errors import FactConflict, LedgerError, LedgerUnavailable, NotFound
from malmen_core.errors import CoreError


class WorkerError(Exception):
    """Base of the worker's errors.

    Attributes:
        code: slug that names the kind of problem on the wire.
        message: what went wrong, with which input.
        remedy: what the caller can do.
    """

    code = "worker-error"

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}"


class WorkerStopping(WorkerError):
    """The worker was asked to stop; the work is given back."""

    code = "worker-stopping"

    def __init__(self) -> None:
        super().__init__(
            "The worker is stopping.", "Ask again: another worker takes over, or this one after it restarts."
        )


class CheckpointChanged(WorkerError):
    """The checkpoint on this host is not the one that was registered."""

    code = "checkpoint-changed"

    def __init__(self, model_id: str, registered: str, found: str) -> None:
        super().__init__(
            f"Model '{model_id}' was registered with the checkpoint {registered}, but this host has {found}.",
            "Restore the registered files, or register the changed checkpoint under another id.",
        )


class WeightsDiffer(WorkerError):
    """This worker makes other weights of a version than those that were verified."""

    code = "weights-differ"

    def __init__(self, what: str, verified: str, found: str) -> None:
        super().__init__(
            f"The weights of {what} are {found} on this worker, but {verified} was verified.",
            "Give all workers of a model the same release, hardware, ERRATA_DEVICE and ERRATA_DTYPE.",
        )


def problem(error: Exception) -> dict[str, Any]:
    """Put an error as a problem object (RFC 9457): a typed one with its code and remedy, others without."""
    if not isinstance(error, LedgerError | CoreError | WorkerError):
        return internal_problem(error)
    fields: dict[str, Any] = {
        "type": f"urn:errata:problem:{error.code}",
        "title": error.code.replace("-", " ").capitalize(),
        "status": _status(error),
        "detail": f"{error.message} {error.remedy}",
        "code": error.code,
    }
    pointer = getattr(error, "field", None)
    if pointer:
        fields["errors"] = [{"pointer": pointer, "detail": error.message}]
    return fields


def internal_problem(error: BaseException) -> dict[str, Any]:
    """Put an unforeseen error as a problem object: its kind only, since its text may hold anything."""
    return {
        "type": "urn:errata:problem:internal-error",
        "title": "Internal error",
        "status": 500,
        "detail": f"The worker met an unforeseen {type(error).__name__}; its log has the details.",
        "code": "internal-error",
    }


def _status(error: LedgerError | CoreError | WorkerError) -> int:
    if isinstance(error, NotFound):
        return 404
    if isinstance(error, FactConflict):
        return 409
    if isinstance(error, LedgerUnavailable | WorkerStopping):
        return 503
    if isinstance(error, CoreError):
        return 422
    return 500

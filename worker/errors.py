"""The worker's own typed errors, and how any error is put as a problem object."""

from __future__ import annotations

from typing import Any

from malmen_core.errors import CoreError
from problems import ErrataError, problem_of


class WorkerError(ErrataError):
    """Base of the worker's errors."""

    code = "worker-error"


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
    if not isinstance(error, ErrataError | CoreError):
        return internal_problem(error)
    return problem_of(error.code, f"{error.message} {error.remedy}", error.field, error.message)


def internal_problem(error: BaseException) -> dict[str, Any]:
    """Put an unforeseen error as a problem object: its kind only, since its text may hold anything."""
    detail = f"The worker met an unforeseen {type(error).__name__}; its log has the details."
    return problem_of("internal-error", detail)

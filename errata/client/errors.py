"""What a request can come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from errata.errors import NoStack, StackError


class ApiError(StackError):
    """The service answered with a problem.

    Attributes:
        problem: The problem object (RFC 9457).
        status: The HTTP status.
        kind: The problem's kind, such as ``not-found``.
        errors: Its bad fields, each with a JSON pointer and what is wrong.
    """

    code = "refused"

    def __init__(self, problem: Mapping[str, Any], status: int) -> None:
        self.errors: list[dict[str, Any]] = list(problem.get("errors") or [])
        details = tuple(f"{entry.get('pointer', '')}: {entry.get('detail', '')}" for entry in self.errors)
        title, detail = str(problem.get("title", "")), str(problem.get("detail", ""))
        message = detail if detail.startswith(title) else f"{title}: {detail}" if detail else title
        super().__init__(f"{message} (HTTP {status})", "", details)
        self.problem = dict(problem)
        self.status = status
        self.kind = str(problem.get("type", "")).rpartition(":")[2]


class Unreachable(NoStack):
    """Nothing answers at the address."""


class WaitTimeout(StackError):
    """What is waited for has not come to its end in time."""

    code = "wait-timeout"

"""What is answered under an old name for one release more, and says so (RFC 9745)."""

from __future__ import annotations

from fastapi import Response

SINCE = "@1796083200"
"""When the present old names were given up: 1 December 2026."""


def note(response: Response, instead: str) -> None:
    """Mark an answer as one to an old name, and name what takes its place."""
    response.headers["Deprecation"] = SINCE
    response.headers["Warning"] = f'299 - "deprecated: {instead}"'

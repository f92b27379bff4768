"""Server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi.responses import StreamingResponse


def event(name: str, data: Mapping[str, Any], ident: str | None = None) -> bytes:
    """One event on the wire: a name, JSON on one line, and an id where there is one."""
    lines = [f"event: {name}", f"data: {json.dumps(data)}"]
    if ident is not None:
        lines.insert(0, f"id: {ident}")
    return ("\n".join(lines) + "\n\n").encode()


COMMENT = b": waiting\n\n"


def answer(events: AsyncIterator[bytes]) -> StreamingResponse:
    """An answer that sends events as they come, through proxies too."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)

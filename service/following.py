"""Following what is worked on: its states as server-sent events, from the present one to the final one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, TypeVar

from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from ledger.errors import LedgerError, LedgerUnavailable
from service import sse
from service.context import Services
from service.failures import typed_problem
from service.schemas.edits import FINAL, EditSetView
from service.schemas.models import WithdrawalView

POLL_S = 1.0
KEEP_ALIVE_S = 10.0
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events `progress` at each change, then one `final`; data is the object as JSON.",
        "content": {"text/event-stream": {}},
    }
}
View = TypeVar("View", EditSetView, WithdrawalView)


async def follow(services: Services, look: Callable[[], View]) -> StreamingResponse:
    """Answer with the states of an object; a lost database ends none.

    Args:
        services: the application's parts.
        look: reads the present state from the ledger; called in a thread.

    Raises:
        LedgerError: there is no such object, or the ledger is away at first.
        Problem: too many follow already.
    """
    first = await run_in_threadpool(look)
    services.changes.check_room()
    return sse.answer(_states(services, first, look))


async def _states(services: Services, view: View, look: Callable[[], View]) -> AsyncIterator[bytes]:
    number = 0
    try:
        with services.changes.following(view.id) as changed:
            while True:
                final = view.status in FINAL
                yield sse.event("final" if final else "progress", view.model_dump(mode="json"), str(number))
                if final:
                    return
                number, seen = number + 1, view
                while view == seen:
                    if not await _wait(services, changed):
                        yield sse.COMMENT
                    with suppress(LedgerUnavailable):  # it comes back, or the client goes
                        view = await run_in_threadpool(look)
    except LedgerError as error:
        yield sse.event("error", typed_problem(error).to_json())


async def _wait(services: Services, changed: asyncio.Event) -> bool:
    """Wait for a change, for no longer than a connection may be silent; shortly while nobody listens."""
    try:
        wait_s = KEEP_ALIVE_S if services.changes.listening.is_set() else POLL_S
        await asyncio.wait_for(changed.wait(), wait_s)
    except TimeoutError:
        return False
    changed.clear()
    return True

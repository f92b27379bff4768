"""Who follows which edit set: one connection of the process listens for what has changed in the ledger."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from ledger import Ledger
from ledger.db.engine import connecting
from service.problems import Problem

logger = logging.getLogger(__name__)

CHANNEL = "errata_changes"
RETRY_S = 2.0


class Changes:
    """Wakes those who follow an edit set or a withdrawal when it changes. For one event loop.

    Nothing is asked of the database while nothing changes, however many follow. While the connection is away,
    `listening` is not set, and whoever follows has to look for himself.
    """

    def __init__(self, ledger: Ledger, most: int) -> None:
        self._url = ledger.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._most = most
        self._followers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self.listening = asyncio.Event()

    def check_room(self) -> None:
        """See that one more may follow.

        Raises:
            Problem: too many do already.
        """
        if sum(map(len, self._followers.values())) >= self._most:
            detail = (
                f"{self._most} follow edit sets through this process already. Ask for the edit set itself "
                "now and then, or ask the operator to raise ERRATA_MAX_FOLLOWERS."
            )
            raise Problem("too-many-followers", detail)

    @contextmanager
    def following(self, ident: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever an object has changed, and at first, while the block lasts."""
        if self._task is None:
            self._task = asyncio.create_task(self._listen())
        changed = asyncio.Event()
        changed.set()
        self._followers[ident].add(changed)
        try:
            yield changed
        finally:
            self._followers[ident].discard(changed)
            if not self._followers[ident]:
                del self._followers[ident]

    async def close(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _listen(self) -> None:
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, **connecting(self._url)
                )
                async with connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self.listening.set()
                    self._wake_all()  # what changed before is looked up
                    async for notice in connection.notifies():
                        for changed in self._followers.get(notice.payload, ()):
                            changed.set()
            except psycopg.Error as error:
                logger.warning("Changes are looked for until the database is back: %s", error)
            finally:
                self.listening.clear()
            await asyncio.sleep(RETRY_S)

    def _wake_all(self) -> None:
        for followers in self._followers.values():
            for changed in followers:
                changed.set()

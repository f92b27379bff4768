"""Walking a whole list of the ledger, page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from sqlalchemy.orm import Session

from ledger.records import Page

T = TypeVar("T")
PAGE = 500


def every(session: Session, listing: Callable[[Session, int, str | None], Page[T]]) -> Iterator[T]:
    """All items, in the list's order."""
    cursor: str | None = None
    while True:
        page = listing(session, PAGE, cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return

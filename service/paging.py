"""Walking a whole list of the ledger, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

from ledger.records import Page

T = TypeVar("T")
PAGE = 500


class Listing(Protocol[T]):
    """A list of the ledger."""

    def __call__(self, *, limit: int, cursor: str | None) -> Page[T]:
        """One page of it."""


def every(listing: Listing[T]) -> Iterator[T]:
    """All items, in the list's order."""
    cursor: str | None = None
    while True:
        page = listing(limit=PAGE, cursor=cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return

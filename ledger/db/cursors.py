"""Opaque cursors for keyset paging: a page is stable however many rows are added while it is read."""

from __future__ import annotations

import base64
import binascii
import json

from ledger.errors import InvalidCursor

MAX_LIMIT = 500


def encode(listing: str, key: int) -> str:
    """Return the cursor after the row with this key in the named list."""
    text = json.dumps([listing, key], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(listing: str, cursor: str | None, bits: int) -> int | None:
    """Return the key in a cursor of the named list, or None for the first page.

    Args:
        listing: the list's name.
        cursor: from the page before, or None.
        bits: the width of the list's keys.

    Raises:
        InvalidCursor: it is not a cursor, or is one of another list.
    """
    if cursor is None:
        return None
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        content = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (UnicodeError, binascii.Error, ValueError) as error:
        raise InvalidCursor(cursor) from error
    match content:
        case [str(name), int(key)] if name == listing and type(key) is int and 0 <= key < 2 ** (bits - 1):
            return key
        case _:
            raise InvalidCursor(cursor)


def clamp(limit: int) -> int:
    """Return the page size to use for a wanted one: 1 to 500."""
    return max(1, min(limit, MAX_LIMIT))

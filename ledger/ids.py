"""Identifiers: sortable by the time they were made, hard to guess, safe in addresses and RQ job ids."""

from __future__ import annotations

import secrets
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """Return `<prefix>_` and 26 characters: 48 bits of milliseconds, then 80 random bits."""
    value = (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80)
    return f"{prefix}_" + "".join(ALPHABET[(value >> shift) & 31] for shift in range(125, -5, -5))


def fact_id(edit_set_id: str, position: int) -> str:
    """Return the id of the fact at this position (from 0) of an edit set."""
    return f"{edit_set_id}.{position}"


def parse_fact_id(ident: str) -> tuple[str, int] | None:
    """Return the edit set and position that a fact id names, or None if it is no fact id."""
    edit_set_id, dot, position = ident.rpartition(".")
    if not dot or not edit_set_id or not (position.isascii() and position.isdigit()) or len(position) > 9:
        return None
    return edit_set_id, int(position)

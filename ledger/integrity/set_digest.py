"""A digest of a set that is kept up as members come and go, whatever their order (MuHash3072).

The state is the product, modulo a prime, of one number for each member; a member is taken out by its inverse.
So a version's digest costs what its change costs, and only the same sets have the same digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ledger.integrity.chain import canonical_json, digest

BYTES = 384
PRIME = 2**3072 - 1103717  # the greatest prime below 2**3072
EMPTY = (1).to_bytes(BYTES, "big")


def update(state: bytes, added: Iterable[object], removed: Iterable[object]) -> bytes:
    """Return the state of a set after some members, each JSON-able, came and went."""
    value = int.from_bytes(state, "big") * _product(added) % PRIME
    gone = _product(removed)
    return (value if gone == 1 else value * pow(gone, -1, PRIME) % PRIME).to_bytes(BYTES, "big")


def of(state: bytes) -> str:
    """Return the digest of a set with this state."""
    return digest(state)


def _product(members: Iterable[object]) -> int:
    product = 1
    for member in members:
        expanded = hashlib.shake_256(canonical_json(member)).digest(BYTES)
        product = product * int.from_bytes(expanded, "big") % PRIME
    return product

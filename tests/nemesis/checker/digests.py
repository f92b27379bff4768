"""The hashes that Errata writes down, computed anew."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

PRIME = 2**3072 - 1103717


def sha256(content: bytes) -> str:
    """The digest of bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def plain(value: Any) -> Any:
    """A number as it is hashed: whole ones without a fraction, large ones as floats."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, int):
        return float(value) if abs(value) >= 2**53 else value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value]


def canonical(value: Any) -> bytes:
    """The one JSON text of a value."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def moment(at: datetime) -> str:
    """A time as it is hashed."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def expanded(member: list[Any]) -> int:
    """The number that stands for a member in the product over all members."""
    return int.from_bytes(hashlib.shake_256(canonical(member)).digest(384), "big")

"""Sessions of the console: a random token in a browser's cookie stands for the id of a key, for some hours.

Redis keeps a hash of the token only. A session that Redis loses is signed in again; a key that is revoked ends
all of its sessions, as each request looks it up in the ledger.
"""

from __future__ import annotations

import hashlib
import secrets

from redis.asyncio import Redis


async def begin(redis: Redis, key_id: str, ttl_s: int) -> str:
    """Begin a session of a key, and return its token."""
    token = secrets.token_urlsafe(32)
    await redis.set(_name(token), key_id, ex=ttl_s)
    return token


async def find(redis: Redis, token: str, ttl_s: int) -> str | None:
    """Return the id of the key that a token stands for, and prolong the session; None if there is none."""
    found = await redis.getex(_name(token), ex=ttl_s)
    return found.decode() if isinstance(found, bytes) else found


async def end(redis: Redis, token: str) -> None:
    """End a session."""
    await redis.delete(_name(token))


def _name(token: str) -> str:
    return f"errata:session:{hashlib.sha256(token.encode()).hexdigest()}"

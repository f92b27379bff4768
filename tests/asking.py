"""The API's side of the generation channel, for tests that are not asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from broker import generation
from broker.generation import GenerationCall

T = TypeVar("T")


def _run(redis: Redis, work: Callable[[AsyncRedis], Awaitable[T]]) -> T:
    """Do something with a client of the same server, in an event loop of its own."""
    known = redis.connection_pool.connection_kwargs

    async def run() -> T:
        async with AsyncRedis(host=known["host"], port=known["port"]) as client:
            return await work(client)

    return asyncio.run(run())


def send(redis: Redis, call: GenerationCall, limit: int | None = None) -> None:
    """Queue a call."""
    _run(redis, lambda client: generation.send(client, call, limit))


def cancel(redis: Redis, call: GenerationCall) -> None:
    """Say that nobody waits for a call."""
    _run(redis, lambda client: generation.cancel(client, call))


def replies(redis: Redis, call: GenerationCall, timeout_s: float = 30.0) -> list[dict[str, Any]]:
    """All events of a call."""

    async def read(client: AsyncRedis) -> list[dict[str, Any]]:
        async with aclosing(generation.replies(client, call, timeout_s)) as events:
            return [event async for event in events]

    return _run(redis, read)

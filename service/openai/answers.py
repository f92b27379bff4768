"""Answers to OpenAI's requests: collected from the workers' events, or streamed as they come."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from broker.errors import BrokerError
from broker.generation import GenerationCall
from service.context import Services
from service.failures import QUEUE_DOWN, typed_problem
from service.generation import stream_events
from service.openai.errors import error_body
from service.openai.scores import Score, Scores
from service.problems import Problem

SIDE_BY_SIDE = 16
"""Prompts of one request that are answered at once."""


@dataclass
class Piece:
    """What has been said of one choice since the last piece."""

    text: str = ""
    scores: list[Score] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    digest: str | None = None

    def add(self, event: dict[str, Any]) -> None:
        """Take an event of a worker."""
        self.text += event.get("text") or ""
        self.scores += event.get("scores") or []
        self.finish_reason = event.get("finish_reason")
        self.usage = event.get("usage") or {}
        self.digest = event.get("weights_digest")


Show = Callable[[int, Piece, Scores], dict[str, Any]]


@dataclass(frozen=True)
class Answering:
    """One request: its calls, and how a choice is shown.

    Attributes:
        services: of the application.
        calls: one for each prompt.
        scores: puts the tokens of each into words.
        shown: a choice of a whole answer: (index, what was said, its scores).
        piece: a choice of a chunk.
        head: members of the answer and of each chunk.
        first: a chunk in front of all others, if any.
    """

    services: Services
    calls: Sequence[GenerationCall]
    scores: Sequence[Scores]
    shown: Show
    piece: Show
    head: dict[str, Any]
    chunk_object: str
    first: Callable[[int], dict[str, Any]] | None = None

    async def whole(self) -> dict[str, Any]:
        """The answer when all of it is there.

        Raises:
            Problem: as `stream_events`.
            BrokerError: as `stream_events`.
        """
        places = asyncio.Semaphore(SIDE_BY_SIDE)

        async def one(call: GenerationCall) -> Piece:
            found = Piece()
            async with places, aclosing(stream_events(self.services, call)) as events:
                async for event in events:
                    found.add(event)
            return found

        tasks = [asyncio.ensure_future(one(call)) for call in self.calls]
        try:
            pieces = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        choices = [
            await run_in_threadpool(self.shown, index, piece, self.scores[index])
            for index, piece in enumerate(pieces)
        ]
        digest = pieces[0].digest
        return {
            **self.head,
            "system_fingerprint": digest,
            "choices": choices,
            "usage": usage_of([piece.usage for piece in pieces]),
        }

    async def stream(self, include_usage: bool) -> AsyncIterator[bytes]:
        """The answer as it is written, once it has begun.

        Raises:
            Problem: as `stream_events`, before anything is sent; what comes later is the last event.
            BrokerError: likewise.
        """
        pieces = self._pieces()
        return self._events(include_usage, await anext(pieces), pieces)

    async def _events(
        self, include_usage: bool, begun: tuple[int, Piece], later: AsyncGenerator[tuple[int, Piece], None]
    ) -> AsyncIterator[bytes]:
        usages: list[dict[str, int]] = []
        rest = {"usage": None} if include_usage else {}
        try:
            if self.first is not None:
                for index in range(len(self.calls)):
                    yield self._chunk([self.first(index)], rest)
            async for index, piece in _from(begun, later):
                choice = await run_in_threadpool(self.piece, index, piece, self.scores[index])
                usages.append(piece.usage)
                yield self._chunk([choice], rest)
            if include_usage:
                yield self._chunk([], {"usage": usage_of(usages)})
        except (Problem, BrokerError, RedisError) as error:
            yield sse(error_of(error))
        finally:
            await later.aclose()
        yield b"data: [DONE]\n\n"

    async def _pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """What comes of all calls, in the order in which it comes."""
        queue: asyncio.Queue[tuple[int, Piece | None]] = asyncio.Queue()
        places = asyncio.Semaphore(SIDE_BY_SIDE)

        async def one(index: int, call: GenerationCall) -> None:
            try:
                async with places, aclosing(stream_events(self.services, call)) as events:
                    async for event in events:
                        piece = Piece()
                        piece.add(event)
                        queue.put_nowait((index, piece))
            finally:
                queue.put_nowait((index, None))

        tasks = [asyncio.ensure_future(one(index, call)) for index, call in enumerate(self.calls)]
        left = len(tasks)
        try:
            while left:
                index, piece = await queue.get()
                if piece is None:
                    left -= 1
                    await tasks[index]  # raises what it ended with
                else:
                    yield index, piece
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _chunk(self, choices: list[dict[str, Any]], rest: dict[str, Any]) -> bytes:
        return sse({**self.head, "object": self.chunk_object, "choices": choices, **rest})


async def _from(
    first: tuple[int, Piece], later: AsyncIterator[tuple[int, Piece]]
) -> AsyncIterator[tuple[int, Piece]]:
    yield first
    async for each in later:
        yield each


def usage_of(usages: Sequence[dict[str, int]]) -> dict[str, int]:
    """The tokens of all choices."""
    read, written = (
        sum(usage.get(name, 0) for usage in usages) for name in ("prompt_tokens", "completion_tokens")
    )
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def head_of(kind: str, name: str, prefix: str) -> dict[str, Any]:
    """What every chunk of an answer says."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": name,
    }


def error_of(error: Problem | BrokerError | RedisError) -> dict[str, Any]:
    """An error in the middle of a stream."""
    if isinstance(error, RedisError):
        error = Problem("queue-unavailable", QUEUE_DOWN)
    problem = error if isinstance(error, Problem) else typed_problem(error)
    return error_body(problem.status, problem.detail, problem.code)


def sse(data: dict[str, Any]) -> bytes:
    """One event of a stream."""
    return f"data: {json.dumps(data)}\n\n".encode()

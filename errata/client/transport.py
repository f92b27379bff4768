"""Sending requests, with repeats where they are safe, and reading lists and events."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from errata.client.errors import ApiError, Unreachable
from errata.client.request import Request
from errata.errors import NoStack, StackError

T = TypeVar("T")
RETRIED = (429, 502, 503, 504)
TIMEOUT = httpx.Timeout(150.0, connect=10.0)
SILENCE_S = 40.0
LONGEST_WAIT_S = 8.0
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Retries:
    """How often a request is sent again, and after how long.

    Attributes:
        most: Times it is sent again.
        first_s: Seconds before the first of these, doubled for each further one.
    """

    most: int = 3
    first_s: float = 0.25

    def delay(self, request: Request[Any], count: int, failure: httpx.Response | Exception) -> float | None:
        """Seconds to wait before a request is sent again; None if it is not to be."""
        if count >= self.most:
            return None
        wait_s: float = min(self.first_s * 2.0**count, LONGEST_WAIT_S) * random.uniform(0.75, 1.25)
        if isinstance(failure, httpx.Response):
            if failure.status_code not in RETRIED or not (request.repeatable or failure.status_code == 429):
                return None
            asked = failure.headers.get("retry-after", "")
            return min(max(wait_s, float(asked)), LONGEST_WAIT_S) if asked.isdecimal() else wait_s
        if isinstance(failure, NOT_SENT):
            return wait_s
        return wait_s if isinstance(failure, httpx.TransportError) and request.repeatable else None


class _Transport:
    """What both ways of sending share."""

    def __init__(self, url: str, key: str | None, retries: Retries) -> None:
        self.url = url.rstrip("/")
        self.retries = retries
        if key and not (key.isascii() and key.isprintable()):
            raise NoStack("The key holds a character that no key has.", "Check --key (ERRATA_KEY).")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def _open(self, make: Callable[..., T], **options: Any) -> T:
        try:  # the environment's proxies are not for a service that is mostly on this machine
            return make(base_url=self.url, headers=self._headers, timeout=TIMEOUT, trust_env=False, **options)
        except (httpx.InvalidURL, ValueError) as error:
            raise NoStack(
                f"{self.url} is no address: {error}.",
                "Check --url (ERRATA_URL), such as http://127.0.0.1:8000.",
            ) from error

    def _arguments(self, request: Request[Any]) -> dict[str, Any]:
        params = {name: value for name, value in request.params.items() if value is not None}
        given: dict[str, Any] = {"params": params, "headers": dict(request.headers)}
        if request.body is not None:
            # In ASCII, so that text which is not UTF-8 arrives, and is refused by the name of its field.
            given["content"] = json.dumps(request.body).encode()
            given["headers"].setdefault("Content-Type", "application/json")
        elif request.content is not None:
            given["content"] = request.content
        return given

    def _failed(self, request: Request[Any], error: Exception) -> StackError:
        if isinstance(error, httpx.HTTPError) and not isinstance(error, httpx.LocalProtocolError):
            return Unreachable(
                f"No answer from {self.url} ({type(error).__name__}: {error}).",
                "Is the service running? Start one with `errata up`, or give --url.",
            )
        return StackError(
            f"{request.method} {request.path} cannot be sent: {error}.",
            "Check --model, --url and --idempotency-key.",
        )


SENDING = (httpx.HTTPError, httpx.InvalidURL, ValueError)


class SyncTransport(_Transport):
    """Sends requests and waits."""

    def __init__(self, url: str, key: str | None, retries: Retries, **options: Any) -> None:
        super().__init__(url, key, retries)
        self.http = self._open(httpx.Client, **options)

    def respond(self, request: Request[Any]) -> httpx.Response:
        """The successful answer to a request.

        Raises:
            ApiError: The service answered with a problem.
            Unreachable: Nothing answers at the address.
            StackError: The request cannot be sent.
        """
        for count in range(self.retries.most + 1):
            failure: httpx.Response | Exception
            try:
                arguments = self._arguments(request)
                if request.lines is not None:
                    arguments["content"] = _encoded(request.lines)
                failure = self.http.request(request.method, request.path, **arguments)
                if failure.status_code < 400:
                    return failure
            except SENDING as error:
                failure = error
            wait_s = self.retries.delay(request, count, failure)
            if wait_s is None:
                break
            time.sleep(wait_s)
        if isinstance(failure, httpx.Response):
            raise problem_of(failure)
        raise self._failed(request, failure) from failure

    def send(self, request: Request[T]) -> T:
        """What a request's answer says; raises as `respond`."""
        return request.read(body_of(self.respond(request)))

    def pages(self, request: Request[T]) -> Iterator[T]:
        """All items of a list, page by page; raises as `respond`."""
        params = dict(request.params)
        while True:
            page = body_of(self.respond(Request(request.method, request.path, dict, params)))
            yield from map(request.read, page["items"])
            if page.get("next_cursor") is None:
                return
            params["cursor"] = page["next_cursor"]

    @contextmanager
    def events(self, request: Request[Any]) -> Iterator[Iterator[Event]]:
        """The server-sent events of an answer; raises as `respond`, but nothing is sent again."""
        try:
            arguments = {**self._arguments(request), "timeout": httpx.Timeout(SILENCE_S, connect=10.0)}
            with self.http.stream(request.method, request.path, **arguments) as response:
                if response.status_code >= 400:
                    response.read()
                    raise problem_of(response)
                yield decoded(response.iter_lines())
        except SENDING as error:
            raise self._failed(request, error) from error

    def close(self) -> None:
        """Close the connections."""
        self.http.close()


class AsyncTransport(_Transport):
    """Sends requests in an event loop."""

    def __init__(self, url: str, key: str | None, retries: Retries, **options: Any) -> None:
        super().__init__(url, key, retries)
        self.http = self._open(httpx.AsyncClient, **options)

    async def respond(self, request: Request[Any]) -> httpx.Response:
        """As `SyncTransport.respond`."""
        for count in range(self.retries.most + 1):
            failure: httpx.Response | Exception
            try:
                arguments = self._arguments(request)
                if request.lines is not None:
                    arguments["content"] = _encoded_async(request.lines)
                failure = await self.http.request(request.method, request.path, **arguments)
                if failure.status_code < 400:
                    return failure
            except SENDING as error:
                failure = error
            wait_s = self.retries.delay(request, count, failure)
            if wait_s is None:
                break
            await asyncio.sleep(wait_s)
        if isinstance(failure, httpx.Response):
            raise problem_of(failure)
        raise self._failed(request, failure) from failure

    async def send(self, request: Request[T]) -> T:
        """As `SyncTransport.send`."""
        return request.read(body_of(await self.respond(request)))

    async def pages(self, request: Request[T]) -> AsyncIterator[T]:
        """As `SyncTransport.pages`."""
        params = dict(request.params)
        while True:
            page = body_of(await self.respond(Request(request.method, request.path, dict, params)))
            for item in page["items"]:
                yield request.read(item)
            if page.get("next_cursor") is None:
                return
            params["cursor"] = page["next_cursor"]

    @asynccontextmanager
    async def events(self, request: Request[Any]) -> AsyncIterator[AsyncIterator[Event]]:
        """As `SyncTransport.events`."""
        try:
            arguments = {**self._arguments(request), "timeout": httpx.Timeout(SILENCE_S, connect=10.0)}
            async with self.http.stream(request.method, request.path, **arguments) as response:
                if response.status_code >= 400:
                    await response.aread()
                    raise problem_of(response)
                yield _decoded_async(response.aiter_lines())
        except SENDING as error:
            raise self._failed(request, error) from error

    async def close(self) -> None:
        """Close the connections."""
        await self.http.aclose()


class Decoder:
    """Server-sent events from their lines."""

    def __init__(self) -> None:
        self._name, self._data = "message", list[str]()

    def add(self, line: str) -> Event | None:
        """Take a line; an event if it ends one."""
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif not line and self._data:
            event = Event(self._name, json.loads("\n".join(self._data)))
            self._name, self._data = "message", []
            return event
        return None


def decoded(lines: Iterable[str]) -> Iterator[Event]:
    """The events of an answer's lines."""
    decoder = Decoder()
    for line in lines:
        event = decoder.add(line)
        if event is not None:
            yield event


async def _decoded_async(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    decoder = Decoder()
    async for line in lines:
        event = decoder.add(line)
        if event is not None:
            yield event


def _encoded(records: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    for record in records:
        yield json.dumps(record).encode() + b"\n"


async def _encoded_async(records: Iterable[Mapping[str, Any]]) -> AsyncIterator[bytes]:
    for line in _encoded(records):
        yield line


def body_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer; empty if there is no content."""
    body = response.json() if response.content else {}
    return body if isinstance(body, dict) else {"items": body}


def problem_of(response: httpx.Response) -> ApiError:
    """The error that an answer tells of, whoever sent it."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        body = {"title": response.reason_phrase, "detail": response.text[:200]}
    return ApiError(body, response.status_code)

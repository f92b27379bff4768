"""A request of the API as a value: the clients differ only in how they send it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

from errata.client.resources import Resource
from errata.errors import StackError

T = TypeVar("T")
R = TypeVar("R", bound=Resource)
Record = Mapping[str, Any]
Ref = int | str
"""A version's number, alias or ``base``."""


@dataclass(frozen=True)
class Request(Generic[T]):
    """What to send, and how to read the answer.

    Attributes:
        method: of HTTP.
        path: with its parts quoted.
        read: makes the result of the answer's JSON.
        params: of the query; those that are None are left out.
        body: sent as JSON.
        lines: sent as JSON lines, as they come.
        content: sent as it is.
        headers: besides the client's.
        repeatable: whether it may be sent again when its answer was lost.
    """

    method: str
    path: str
    read: Callable[[Any], T]
    params: Record = field(default_factory=dict)
    body: Record | None = None
    lines: Iterable[Record] | None = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True


def at(*parts: object) -> str:
    """A path from its parts.

    Raises:
        StackError: One of them is not text that can be sent.
    """
    try:
        return "".join(f"/{quote(str(part), safe='')}" for part in parts)
    except UnicodeEncodeError as error:
        raise StackError(
            f"{error.object!r} cannot be part of an address: {error.reason}.", "Check --model and the ids."
        ) from error


def given(**members: Any) -> dict[str, Any]:
    """The members that are not None."""
    return {name: value for name, value in members.items() if value is not None}


def once(idempotency_key: str | None = None) -> dict[str, str]:
    """The header under which a request that was sent twice is done once."""
    return {"Idempotency-Key": idempotency_key or uuid4().hex}


def nothing(_: Any) -> None:
    """What an answer without content says."""


def read_items(kind: Callable[[dict[str, Any]], R], page: Record) -> list[R]:
    """The items of a list."""
    return [kind(item) for item in page["items"]]

"""What is checked before a request is parsed: its key, the key's scope, the body's size and kind."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.types import Message

from ledger.records import KeyRecord
from service.context import services_of
from service.failures import parse_failure
from service.problems import FieldError, Problem

bearer = HTTPBearer(auto_error=False, description="A key made with POST /admin/keys, or the first admin key.")
MAX_SECRET_CHARS = 512
PUBLIC = KeyRecord("public", "public", frozenset(), datetime.min.replace(tzinfo=UTC), "settings")


class RequiresScope:
    """The dependency of a route on a key with a scope; admin keys have every scope."""

    def __init__(self, scope: str) -> None:
        self.scope = scope

    async def admit(self, request: Request) -> None:
        """Put the request's key into its state.

        Raises:
            Problem: missing-key, invalid-key or missing-scope.
        """
        key = await _authenticate(request)
        if self.scope not in key.scopes and "admin" not in key.scopes:
            detail = (
                f"The key {key.name!r} lacks the scope {self.scope!r}, which {request.method} "
                f"{request.url.path} needs. Use a key that has it, or ask an administrator for one."
            )
            raise Problem("missing-scope", detail, errors=[FieldError("/Authorization", detail, "header")])
        request.state.key = key

    async def __call__(
        self, request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> KeyRecord:
        """The key that `admit` found."""
        key = request.state.key
        assert isinstance(key, KeyRecord)
        return key


class RequiresScopeUnlessPublic(RequiresScope):
    """The dependency of the metrics on a key, unless a setting makes them public."""

    async def admit(self, request: Request) -> None:
        """As `RequiresScope.admit`, where a key is needed at all."""
        if (await services_of(request)).settings.metrics_public:
            request.state.key = PUBLIC
        else:
            await super().admit(request)


ReadKey = Annotated[KeyRecord, Depends(RequiresScope("read"))]
EditKey = Annotated[KeyRecord, Depends(RequiresScope("edit"))]
AdminKey = Annotated[KeyRecord, Depends(RequiresScope("admin"))]
MetricsKey = Annotated[KeyRecord, Depends(RequiresScopeUnlessPublic("read"))]


async def _authenticate(request: Request) -> KeyRecord:
    header = request.headers.get("authorization")
    if header is None:
        detail = "This needs a key. Send the header `Authorization: Bearer <key>`."
        raise Problem("missing-key", detail, errors=[FieldError("/Authorization", detail, "header")])
    scheme, _, secret = header.partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        detail = "The Authorization header must read `Bearer <key>`."
        raise Problem("invalid-key", detail, errors=[FieldError("/Authorization", detail, "header")])
    services = await services_of(request)
    key = None
    if len(secret) <= MAX_SECRET_CHARS and secret.isascii():
        key = await run_in_threadpool(services.ledger.authenticate, secret)
    if key is None:
        detail = "The key is unknown or was revoked. Check it, or ask an administrator for a new one."
        raise Problem("invalid-key", detail, errors=[FieldError("/Authorization", detail, "header")])
    return key


async def bounded(request: Request, limit: int) -> Request:
    """The same request with its body read, if that has at most `limit` bytes, declared or chunked.

    Raises:
        Problem: body-too-large, as soon as that is known.
    """
    declared = request.headers.get("content-length", "")
    chunks: list[bytes] = []
    total = int(declared) if declared.isdecimal() else 0
    if total <= limit:
        total = 0
        async for chunk in request.stream():
            total += len(chunk)
            if total > limit:
                break
            chunks.append(chunk)
    if total > limit:
        detail = (
            f"The body has more than {limit} bytes. Split the edit set, "
            "or ask the operator to raise ERRATA_MAX_BODY_BYTES."
        )
        raise Problem(
            "body-too-large", detail, errors=[FieldError("", detail)], headers={"Connection": "close"}
        )
    unread = [b"".join(chunks)]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await request.receive()

    return Request(request.scope, receive)


async def _check_json(request: Request) -> None:
    """Parse the body once, which the request then remembers.

    Raises:
        Problem: unsupported-media-type or invalid-json.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if await request.body() and not (kind == "application/json" or kind.endswith("+json")):
        detail = f"The body is declared as {kind or 'nothing'}. Send `Content-Type: application/json`."
        raise Problem(
            "unsupported-media-type", detail, errors=[FieldError("/Content-Type", detail, "header")]
        )
    try:
        await request.json()
    except (ValueError, RecursionError) as error:
        raise parse_failure(error) from error


class GuardedRoute(APIRoute):
    """A route that checks key, scope and body before anything is parsed."""

    @property
    def guard(self) -> RequiresScope | None:
        """The scope that the route depends on, if any."""
        for dependency in self.dependant.dependencies:
            if isinstance(dependency.call, RequiresScope):
                return dependency.call
        return None

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, guarded."""
        handle = super().get_route_handler()
        guard, takes_body = self.guard, bool(self.dependant.body_params)

        async def guarded(request: Request) -> Response:
            if guard is not None:
                await guard.admit(request)
            if takes_body:
                limit = (await services_of(request)).settings.max_body_bytes
                request = await bounded(request, limit)
                await _check_json(request)
            return await handle(request)

        return guarded

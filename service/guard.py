"""What is checked before a request is parsed: its key, the key's scope, the body's size and kind."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any

from anyio import CancelScope
from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.types import Message

from ledger.auth import keys
from ledger.db.engine import unavailable_is_typed
from ledger.records import KeyRecord
from service.context import services_of, transaction_of
from service.failures import parse_failure
from service.problems import FieldError, Problem

bearer = HTTPBearer(auto_error=False, description="A key made with POST /admin/keys, or the first admin key.")
MAX_SECRET_CHARS = 512
SMALL_BODY_BYTES = 64 * 1024
PUBLIC = KeyRecord("public", "public", frozenset(), datetime.min.replace(tzinfo=UTC), "settings")


def allows(key: KeyRecord, scope: str) -> bool:
    """Whether a key may do what needs a scope."""
    return scope in key.scopes or "admin" in key.scopes


class RequiresScope:
    """The dependency of a route on a key with a scope; admin keys have every scope."""

    def __init__(self, scope: str) -> None:
        self.scope = scope

    async def admit(self, request: Request) -> None:
        """Put the request's key into its state.

        Raises:
            Problem: missing-key, invalid-key or missing-scope.
        """
        key = await self.authenticate(request)
        if not allows(key, self.scope):
            detail = (
                f"The key {key.name!r} lacks the scope {self.scope!r}, which {request.method} "
                f"{request.url.path} needs. Use a key that has it, or ask an administrator for one."
            )
            raise Problem("missing-scope", detail, errors=[FieldError("/Authorization", detail, "header")])
        request.state.key = key

    async def authenticate(self, request: Request) -> KeyRecord:
        """The key that a request is made with.

        Raises:
            Problem: missing-key or invalid-key.
        """
        return await _authenticate(request)

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


async def find_key(request: Request, secret: str) -> KeyRecord:
    """The key with a secret.

    Raises:
        Problem: invalid-key.
    """
    key = None
    if len(secret) <= MAX_SECRET_CHARS and secret.isascii():
        key = await run_in_threadpool(keys.authenticate, request.state.tx, secret)
    if key is None:
        detail = "The key is unknown or was revoked. Check it, or ask an administrator for a new one."
        raise Problem("invalid-key", detail, errors=[FieldError("/Authorization", detail, "header")])
    return key


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
    return await find_key(request, secret)


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
    """A route that checks key, scope and body before anything is parsed, and answers in one transaction.

    The transaction that looks the key up is that of a handler which depends on it (`context.Tx`), and commits
    before the answer is sent. It waits for no client: a small body is read before it begins, and where a
    large one is still to be read, or the handler does without, it ends once the key is known.
    """

    @property
    def guard(self) -> RequiresScope | None:
        """The scope that the route depends on, if any."""
        for dependency in self.dependant.dependencies:
            if isinstance(dependency.call, RequiresScope):
                return dependency.call
        return None

    @property
    def transacts(self) -> bool:
        """Whether the handler works in the request's transaction."""
        return any(dependency.call is transaction_of for dependency in self.dependant.dependencies)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, guarded."""
        handle = super().get_route_handler()
        guard, transacts, takes_body = self.guard, self.transacts, bool(self.dependant.body_params)

        async def guarded(request: Request) -> Response:
            limit = (await services_of(request)).settings.max_body_bytes
            unread = takes_body
            if takes_body and _is_small(request):
                request, unread = await bounded(request, limit), False
            if guard is not None:
                await guard.admit(request)
            if unread or not transacts:
                await _commit(request)
            if unread:
                request = await bounded(request, limit)
            if takes_body:
                await _check_json(request)
            response = await handle(request)
            await _commit(request)
            return response

        async def in_transaction(request: Request) -> Response:
            request.state.tx = tx = (await services_of(request)).ledger.open_transaction()
            try:
                with unavailable_is_typed():
                    return await guarded(request)
            finally:
                if tx.in_transaction():
                    with CancelScope(shield=True):
                        await run_in_threadpool(tx.close)

        return in_transaction


def _is_small(request: Request) -> bool:
    """Whether a body may be read from someone whose key is not known yet."""
    declared = request.headers.get("content-length", "")
    return "authorization" in request.headers and declared.isdecimal() and int(declared) <= SMALL_BODY_BYTES


async def _commit(request: Request) -> None:
    if request.state.tx.in_transaction():
        await run_in_threadpool(request.state.tx.commit)

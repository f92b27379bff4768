"""What is checked before a request is parsed: its key, the key's scope, the body's size and kind."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any

from anyio import CancelScope
from fastapi import Depends, Header, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import Message

from ledger.auth import idempotency, keys
from ledger.db.engine import Transaction, unavailable_is_typed
from ledger.records import KeyRecord
from service import last_known
from service.context import services_of, transaction_of
from service.failures import parse_failure
from service.problems import FieldError, Problem
from service.schemas.base import IDEMPOTENCY_KEY

bearer = HTTPBearer(auto_error=False, description="A key made with POST /admin/keys, or the first admin key.")
MAX_SECRET_CHARS = 512
SMALL_BODY_BYTES = 64 * 1024
PUBLIC = KeyRecord("public", "public", frozenset(), datetime.min.replace(tzinfo=UTC), "settings")


class RequiresScope:
    """The dependency of a route on a key with a scope, by name or by a greater one."""

    def __init__(self, scope: str) -> None:
        self.scope = scope

    async def admit(self, request: Request) -> None:
        """Put the request's key into its state.

        Raises:
            Problem: missing-key, invalid-key or missing-scope.
        """
        key = await self.authenticate(request)
        if not keys.grants(key, self.scope):
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
        return await _authenticate(request, generates=self.scope == "generate")

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


GenerateKey = Annotated[KeyRecord, Depends(RequiresScope("generate"))]
ReadKey = Annotated[KeyRecord, Depends(RequiresScope("read"))]
EditKey = Annotated[KeyRecord, Depends(RequiresScope("edit"))]
AdminKey = Annotated[KeyRecord, Depends(RequiresScope("admin"))]
MetricsKey = Annotated[KeyRecord, Depends(RequiresScopeUnlessPublic("read"))]


IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=IDEMPOTENCY_KEY,
        description="For 24 hours, a repeat with this key gives the first answer and does nothing more; another "
        "request under it is refused.",
    ),
]


async def repeatable(idempotency_key: IdempotencyKey = None) -> None:
    """The dependency of a route whose first answer is given again; see `GuardedRoute`."""


Repeatable = Annotated[None, Depends(repeatable)]


async def find_key(request: Request, secret: str, *, generates: bool = False) -> KeyRecord:
    """The key with a secret, whose use is noted.

    Where the ledger does not answer, a key that was in force a short while ago still generates.

    Raises:
        Problem: invalid-key.
    """

    def look_up() -> KeyRecord:
        tx: Transaction = request.state.tx
        try:
            key = keys.authenticate(tx, secret) if sendable else None
            if key is not None and keys.note_use(tx, key):
                tx.commit()
        except SQLAlchemyError:
            tx.rollback()
            raise
        return _in_force(key)

    sendable = len(secret) <= MAX_SECRET_CHARS and secret.isascii()
    if not generates:
        return await run_in_threadpool(look_up)
    what = "key", hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
    services = await services_of(request)
    return _in_force(await run_in_threadpool(services.last_known.ask, what, look_up))


def _in_force(key: KeyRecord | None) -> KeyRecord:
    if key is not None and (key.expires_at is None or key.expires_at > datetime.now(UTC)):
        return key
    detail = "The key is unknown, was revoked, or has expired. Check it, or ask an administrator for one."
    raise Problem("invalid-key", detail, errors=[FieldError("/Authorization", detail, "header")])


async def _authenticate(request: Request, *, generates: bool) -> KeyRecord:
    header = request.headers.get("authorization")
    if header is None:
        detail = "This needs a key. Send the header `Authorization: Bearer <key>`."
        raise Problem("missing-key", detail, errors=[FieldError("/Authorization", detail, "header")])
    scheme, _, secret = header.partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        detail = "The Authorization header must read `Bearer <key>`."
        raise Problem("invalid-key", detail, errors=[FieldError("/Authorization", detail, "header")])
    return await find_key(request, secret, generates=generates)


async def bounded(
    request: Request, limit: int, what: str = "the edit set", setting: str = "ERRATA_MAX_BODY_BYTES"
) -> Request:
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
            f"The body has more than {limit} bytes. Make {what} smaller, "
            f"or ask the operator to raise {setting}."
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

    A route that depends on `Repeatable` keeps its first answer in that transaction, and gives it to repeats.
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

    @property
    def repeats(self) -> bool:
        """Whether a repeat under an idempotency key gets the first answer."""
        return any(dependency.call is repeatable for dependency in self.dependant.dependencies)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, guarded."""
        handle = super().get_route_handler()
        guard, transacts, takes_body = self.guard, self.transacts, bool(self.dependant.body_params)
        repeats = self.repeats

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
            response = await (_once(request, handle) if repeats else handle(request))
            await _commit(request)
            return response

        async def in_transaction(request: Request) -> Response:
            request.state.tx = tx = (await services_of(request)).ledger.open_transaction()
            try:
                with unavailable_is_typed(), last_known.noted() as headers:
                    response = await guarded(request)
                response.headers.update(headers)
                return response
            finally:
                if tx.in_transaction():
                    with CancelScope(shield=True):
                        await run_in_threadpool(tx.close)

        return in_transaction


def _is_small(request: Request) -> bool:
    """Whether a body may be read from someone whose key is not known yet."""
    declared = request.headers.get("content-length", "")
    return "authorization" in request.headers and declared.isdecimal() and int(declared) <= SMALL_BODY_BYTES


Handle = Callable[[Request], Coroutine[Any, Any, Response]]
KEPT_HEADERS = ("location", "deprecation", "warning", "cache-control", "content-type", "etag")


async def _once(request: Request, handle: Handle) -> Response:
    """Answer a request whose idempotency key is new, or give the first answer again.

    Raises:
        IdempotencyConflict: the key was used for another request.
    """
    given = request.headers.get("idempotency-key")
    if given is None or not re.fullmatch(IDEMPOTENCY_KEY, given):
        return await handle(request)  # which refuses a bad one by name
    tx, key = request.state.tx, request.state.key
    first = await run_in_threadpool(idempotency.take, tx, key, given, await _asked(request))
    if first is not None and first.answer is not None:
        headers = {**first.answer["headers"], "Idempotency-Replayed": "true"}
        return Response(json.dumps(first.answer["body"]), first.answer["status"], headers)
    response = await handle(request)
    body = json.loads(bytes(response.body))
    if "secret" in body:
        body["secret"] = None  # of a new key: it is kept nowhere
    headers = {name: value for name, value in response.headers.items() if name in KEPT_HEADERS}
    answer = {"status": response.status_code, "headers": headers, "body": body}
    await run_in_threadpool(idempotency.keep, tx, key, given, answer)
    return response


async def _asked(request: Request) -> str:
    """The digest of what a request asks for, whatever its body's spacing and order of members."""
    body = json.dumps(await request.json(), sort_keys=True) if await request.body() else ""
    text = f"{request.method} {request.url.path}?{request.url.query} {body}"
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


async def _commit(request: Request) -> None:
    if request.state.tx.in_transaction():
        await run_in_threadpool(request.state.tx.commit)

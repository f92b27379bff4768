"""Who uses the console: a key behind a cookie, and forms that only its own pages can send."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from broker import sessions
from ledger.auth import keys
from ledger.errors import NotFound
from ledger.records import KeyRecord
from service.context import services_of
from service.guard import RequiresScope, bounded
from service.problems import Problem

COOKIE = "errata_console"
VISITOR = "errata_sign_in"
"""The cookie of someone who has not signed in yet, which ties the sign-in form to the browser."""
SESSION_S = 12 * 3600


class SignedIn(RequiresScope):
    """The dependency of a page on a session whose key has a scope; what is posted needs the session's token."""

    async def authenticate(self, request: Request) -> KeyRecord:
        """The key of the session.

        Raises:
            Problem: missing-key without a session, or for a revoked key; forged-form.
        """
        token = request.cookies.get(COOKIE, "")
        services = await services_of(request)
        key_id = await sessions.find(services.async_redis, token, SESSION_S) if token else None
        if key_id is None:
            raise Problem("missing-key", "Sign in with a key to see this page.")
        if request.method == "POST":
            await read_form(request, token)
        key = await run_in_threadpool(_in_force, request, key_id)
        if key is None:
            raise Problem(
                "missing-key", "The key of this session was revoked or has expired. Sign in with another."
            )
        request.state.key, request.state.csrf = key, csrf_token(token)
        return key


def _in_force(request: Request, key_id: str) -> KeyRecord | None:
    try:
        key = keys.get(request.state.tx, key_id)
    except NotFound:
        return None
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return None if key.revoked_at is not None or expired else key


def csrf_token(token: str) -> str:
    """What the forms of a session carry, which tells nothing of its cookie."""
    return hmac.digest(token.encode(), b"forms of the console", hashlib.sha256).hex()


async def read_form(request: Request, token: str) -> None:
    """Put the posted form, and what its file holds, into the request's state.

    Raises:
        Problem: body-too-large; or forged-form, where it does not carry the token of its session.
    """
    limit = (await services_of(request)).settings.max_body_bytes
    form = await (await bounded(request, limit)).form(max_part_size=limit)
    file = form.get("file")
    request.state.form, request.state.upload = (
        form,
        await file.read() if isinstance(file, UploadFile) else b"",
    )
    await form.close()
    given = request.headers.get("x-csrf-token") or str(form.get("csrf", ""))
    if not token or not hmac.compare_digest(given.encode(), csrf_token(token).encode()):
        detail = "The form was not made for this session. Load the page again, and send it from there."
        raise Problem("forged-form", detail)


async def form_of(request: Request) -> FormData:
    """The form that was posted."""
    form = request.state.form
    assert isinstance(form, FormData)
    return form


async def upload_of(request: Request) -> bytes:
    """The bytes of the form's file; none without one."""
    upload = request.state.upload
    assert isinstance(upload, bytes)
    return upload


def set_cookie(request: Request, response: Response, name: str, token: str, path: str) -> None:
    """Give the browser a cookie for this site's own pages only."""
    response.set_cookie(
        name,
        token,
        path=path,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        max_age=SESSION_S,
    )


def new_visitor() -> str:
    """A token for someone who has not signed in."""
    return secrets.token_urlsafe(32)


ReadSession = Annotated[KeyRecord, Depends(SignedIn("read"))]
EditSession = Annotated[KeyRecord, Depends(SignedIn("edit"))]
AdminSession = Annotated[KeyRecord, Depends(SignedIn("admin"))]
Form = Annotated[FormData, Depends(form_of)]
Upload = Annotated[bytes, Depends(upload_of)]

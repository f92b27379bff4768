"""Editors: uploaded once, then named by their digest when a model is registered."""

from __future__ import annotations

import hashlib

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from ledger.auth import idempotency
from ledger.db.engine import Transaction
from ledger.models import models
from ledger.records import KeyRecord
from malmen_core.editing.editor import Editor
from malmen_core.errors import CoreError
from service.context import ServicesDep
from service.failures import typed_problem
from service.guard import AdminKey, IdempotencyKey, bounded
from service.problems import FieldError
from service.routes import problems, router
from service.schemas.models import UploadedEditor

routes = router("admin")
MEDIA_TYPE = "application/octet-stream"
DOCUMENTED = {
    "requestBody": {
        "required": True,
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


@routes.post("/admin/editors", status_code=201, responses=problems(413, 422), openapi_extra=DOCUMENTED)
async def upload_editor(
    request: Request,
    services: ServicesDep,
    key: AdminKey,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> UploadedEditor:
    """Upload an editor, a safetensors file of `errata train` or `calibrate`; models are registered by its digest."""
    limit = services.settings.max_stream_bytes
    data = await (await bounded(request, limit, "the editor", "ERRATA_MAX_STREAM_BYTES")).body()
    return await run_in_threadpool(services.ledger.run, _keep, data, key, response, idempotency_key)


def _keep(
    tx: Transaction, data: bytes, key: KeyRecord, response: Response, idempotency_key: str | None
) -> UploadedEditor:
    try:
        editor = Editor.from_bytes(data)
    except CoreError as error:
        raise typed_problem(error, [FieldError("", error.message)]) from error
    asked = f"POST /admin/editors sha256:{hashlib.sha256(data).hexdigest()}"
    if idempotency_key is not None and idempotency.take(tx, key, idempotency_key, asked) is not None:
        response.headers["Idempotency-Replayed"] = "true"
    digest = models.keep_editor(tx, data, editor.card, key)
    return UploadedEditor(digest=digest, base_digest=editor.base_digest, card=dict(editor.card))

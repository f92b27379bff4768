"""What administrators do with models: register, roll back, withdraw, point aliases."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import Path, Response
from fastapi.responses import JSONResponse

from ledger.db.engine import Transaction
from ledger.edits import facts, withdrawals
from ledger.errors import GateNotMet, LedgerError, NotFound, NotLive, OtherBase, StaleParent, WrongModel
from ledger.jobs import jobs
from ledger.models import aliases, archive, models
from ledger.records import KeyRecord
from ledger.versions import members, versions
from malmen_core.editing.editor import Editor
from malmen_core.errors import CoreError
from malmen_core.models.base import inspect_source
from service import views
from service.context import Services, ServicesDep, Tx, ring_after
from service.failures import typed_problem
from service.generation import check_ready
from service.guard import AdminKey
from service.limits import MAX_SHOWN, check_reason
from service.problems import FieldError, Problem, pointer
from service.routes import ModelId, problems, router
from service.schemas.models import (
    AliasBody,
    AliasView,
    ModelView,
    RegisterModel,
    RollbackBody,
    RollbackPreview,
    RolledBack,
    WithdrawalAccepted,
    WithdrawBody,
)

PACKAGED = FilePath(__file__).parents[2] / "errata" / "data"
"""Where the editors lie that registration takes by name."""
routes = router("admin")
BODY = (400, 409, 413, 415, 422)
AliasPath = Annotated[str, Path(max_length=128, description="`live` is the version served by default.")]
Made = dict[int | str, dict[str, Any]]


@routes.post(
    "/admin/models",
    status_code=202,
    responses={
        **problems(*BODY),
        200: {"model": ModelView, "description": "The same was registered before, and is ready."},
    },
)
def register_model(
    body: RegisterModel, services: ServicesDep, key: AdminKey, response: Response
) -> ModelView:
    """Register a base model and its editor: what can be checked without reading weights is checked here."""
    source = os.path.realpath(body.source) if os.path.isdir(body.source) else body.source
    _check_roots(services, source, "/source")
    editor = _editor(services, body.editor) if body.editor is not None else None
    info = inspect_source(source, body.revision, body.modules)
    if editor is not None:
        info = info if body.modules is not None else replace(info, modules=editor.modules)
        editor.check_fits(info)
    record = services.ledger.run(
        models.register,
        id=body.id,
        source=source,
        revision=body.revision,
        info={
            "architecture": info.architecture,
            "context_length": info.context_length,
            "modules": list(info.modules),
            "digest": info.digest,
        },
        editor=None if editor is None else editor.to_bytes(),
        gate=body.gate.model_dump(exclude_none=True) if body.gate else None,
        actor=key,
    )
    services.tokenizers.get(record)
    response.headers["Location"] = f"/models/{record.id}"
    response.status_code = 202 if record.status == "preparing" else 200
    return views.model(record)


def _check_roots(services: Services, path: str | None, field: str) -> None:
    """Refuse a folder or file outside those that models may come from; a hub id is neither.

    Raises:
        Problem: invalid-request, naming the field.
    """
    roots = [os.path.realpath(root) for root in services.settings.source_roots.split(":") if root]
    if path is None or not roots or not (os.path.exists(path) or os.path.isabs(path) or path[:1] in ".~"):
        return
    real = os.path.realpath(path)
    if not any(os.path.commonpath([root, real]) == root for root in roots):
        detail = f"{path!r} lies outside the folders that may be used. Put it into one of {', '.join(roots)}."
        raise Problem("invalid-request", detail, errors=[FieldError(field, detail)])


def _editor(services: Services, name: str) -> Editor:
    """A packaged editor by name, else one of a file.

    Raises:
        Problem: the file cannot be read, is no editor, or may not be used; names /editor.
    """
    packaged = {file.stem: file for file in PACKAGED.glob("*.safetensors")}
    if name not in packaged:
        _check_roots(services, name, "/editor")
    try:
        return Editor.load(packaged.get(name, FilePath(name)))
    except CoreError as error:
        raise typed_problem(error, [FieldError("/editor", error.message)]) from error
    except OSError as error:
        detail = f"{name!r} cannot be read: {error.strerror}. Name a file that the API process can read."
        raise Problem("editor-mismatch", detail, errors=[FieldError("/editor", detail)]) from error


@routes.post(
    "/admin/models/{model_id}/rollback",
    response_model=RolledBack | RollbackPreview,
    responses={
        **problems(404, *BODY),
        202: {"model": WithdrawalAccepted, "description": "The version is being computed; see `Location`."},
    },
)
def roll_back(
    model_id: ModelId, body: RollbackBody, services: ServicesDep, tx: Tx, key: AdminKey, response: Response
) -> RolledBack | RollbackPreview | JSONResponse:
    """Make a version with an earlier one's weights, or without some edit sets or facts, and make it live."""
    check_reason(body.reason, services.settings)
    check_ready(models.get(tx, model_id))
    cancelled = jobs.cancel_all(tx, model_id, key) if body.cancel_queued and not body.dry_run else []
    left = [ident for ident in jobs.unfinished(tx, model_id) if ident not in cancelled]
    queue = {
        "queued": left[:MAX_SHOWN],
        "queued_count": len(left),
        "cancelled_count": len(cancelled),
    }
    if body.dry_run:
        return _preview(tx, model_id, body, queue)
    if body.withdraw is not None:
        return _withdraw(model_id, body.withdraw, body.reason, tx, services, key, queue)
    assert body.to_version is not None
    try:
        made = aliases.roll_back(tx, model_id, body.to_version, body.reason, key)
    except (NotFound, GateNotMet, OtherBase) as error:
        raise typed_problem(error, [FieldError("/to_version", error.message)]) from error
    response.headers["Location"] = f"/models/{model_id}/versions/{made.number}"
    return RolledBack(**dict(views.version(made)), **queue)


def _preview(tx: Transaction, model_id: str, body: RollbackBody, queue: dict[str, Any]) -> RollbackPreview:
    if body.withdraw is not None:
        try:
            difference = withdrawals.preview(tx, model_id, body.withdraw.edit_sets, body.withdraw.facts)
        except (NotFound, NotLive, WrongModel) as error:
            raise typed_problem(error, _named(body.withdraw, error)) from error
    else:
        assert body.to_version is not None
        try:
            difference = aliases.preview(tx, model_id, body.to_version)
        except (NotFound, GateNotMet, OtherBase) as error:
            raise typed_problem(error, [FieldError("/to_version", error.message)]) from error
    leave, come = members.moved(difference)
    return RollbackPreview(
        model=model_id,
        live_version=versions.live(tx, model_id).number,
        leaves=[views.held_fact(each) for each in facts.at(tx, leave[:MAX_SHOWN])],
        leaves_count=len(leave),
        returns=[views.held_fact(each) for each in facts.at(tx, come[:MAX_SHOWN])],
        returns_count=len(come),
        **queue,
    )


def _withdraw(
    model_id: str,
    wanted: WithdrawBody,
    reason: str,
    tx: Transaction,
    services: Services,
    key: KeyRecord,
    queue: dict[str, Any],
) -> JSONResponse:
    try:
        made = withdrawals.request(tx, model_id, wanted.edit_sets, wanted.facts, reason, key)
    except (NotFound, NotLive, WrongModel) as error:
        raise typed_problem(error, _named(wanted, error)) from error
    ring_after(tx, services, made.model_id)
    body = {**views.withdrawal(made).model_dump(mode="json"), **queue}
    location = f"/models/{model_id}/versions/{made.id}"
    return JSONResponse(body, status_code=202, headers={"Location": location})


def _named(wanted: WithdrawBody, error: LedgerError) -> list[FieldError]:
    """The members of `withdraw` that an error is about."""
    about = {str(ident) for ident in getattr(error, "idents", None) or [getattr(error, "ident", "")]}
    named = [("edit_sets", wanted.edit_sets), ("facts", wanted.facts)]
    found = [
        FieldError(pointer("withdraw", field, at), error.message)
        for field, idents in named
        for at, ident in enumerate(idents)
        if ident in about
    ]
    return found or [FieldError("/withdraw", error.message)]


@routes.delete("/admin/models/{model_id}", responses=problems(404, 422))
def archive_model(model_id: ModelId, tx: Tx, key: AdminKey) -> ModelView:
    """Archive a model: what waits is cancelled, workers stop serving it, its ledger stays, its id is free."""
    return views.model(archive.archive(tx, model_id, key))


@routes.put("/admin/models/{model_id}/aliases/{name}", responses=problems(404, *BODY))
def put_alias(
    model_id: ModelId,
    name: AliasPath,
    body: AliasBody,
    services: ServicesDep,
    tx: Tx,
    key: AdminKey,
) -> AliasView:
    """Point an alias at a version."""
    check_reason(body.reason, services.settings)
    check_ready(models.get(tx, model_id))
    try:
        aliases.set_alias(tx, model_id, name, body.version, key, force=body.force, reason=body.reason)
    except (NotFound, GateNotMet, StaleParent, OtherBase) as error:
        raise typed_problem(error, [FieldError("/version", error.message)]) from error
    return AliasView(model=model_id, name=name, version=body.version)


@routes.delete("/admin/models/{model_id}/aliases/{name}", status_code=204, responses=problems(404, 409, 422))
def delete_alias(model_id: ModelId, name: AliasPath, tx: Tx, key: AdminKey) -> None:
    """Remove an alias other than `live`; the version that it points at stays."""
    aliases.remove_alias(tx, model_id, name, key)

"""What administrators do with models: register, roll back, withdraw, point aliases."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Header, Path, Response
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
from malmen_core.models.base import ModelInfo, inspect_source
from malmen_core.models.checkpoint import check_hub_id, is_folder
from malmen_core.resources import editor_file, packaged_editors
from service import deprecation, views
from service.context import Services, ServicesDep, Tx, ring_after
from service.failures import typed_problem
from service.generation import check_ready
from service.guard import AdminKey, Repeatable
from service.limits import MAX_SHOWN, check_reason
from service.problems import FieldError, Problem, pointer
from service.routes import ModelId, problems, router
from service.schemas.base import ETAGS
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

routes = router("admin")
BODY = (400, 409, 413, 415, 422)
AliasPath = Annotated[str, Path(max_length=128, description="`live` is the version served by default.")]
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
IfMatch = Annotated[
    str | None,
    Header(
        pattern=ETAGS,
        description='The ETag that the alias must have, such as `"7"` while it points at version 7; otherwise '
        "412.",
    ),
]


@routes.post(
    "/admin/models",
    status_code=202,
    responses={
        **problems(*BODY),
        200: {"model": ModelView, "description": "The same was registered before, and is ready."},
    },
)
def register_model(
    body: RegisterModel, services: ServicesDep, tx: Tx, key: AdminKey, response: Response, _: Repeatable
) -> ModelView:
    """Register a base model and its editor.

    A folder is checked here, as far as that goes without reading weights into memory. A model of the hub is
    fetched by its worker, which says how far that is, and why it fails if it does.
    """
    source = os.path.realpath(body.source) if os.path.isdir(body.source) else body.source
    _check_roots(services, source, "/source")
    uploaded = bool(DIGEST.fullmatch(body.editor or ""))
    editor = None
    if body.editor is not None:
        if not uploaded and body.editor not in packaged_editors():
            deprecation.note(response, "upload the editor with POST /admin/editors, and give its digest")
            _check_roots(services, body.editor, "/editor")
        editor = _editor(tx, body.editor)
    known = None
    if is_folder(source):
        info = inspect_source(source, body.revision, body.modules)
        if editor is not None:
            info = info if body.modules else replace(info, modules=editor.modules)
            _check_fits(editor, info)
        known = {
            "architecture": info.architecture,
            "context_length": info.context_length,
            "modules": list(info.modules),
            "digest": info.digest,
        }
    else:
        check_hub_id(source)
    digest = body.editor if uploaded else None
    if editor is not None and not uploaded:
        digest = models.keep_editor(tx, editor.to_bytes(), editor.card, key)
    record = models.register(
        tx,
        id=body.id,
        source=source,
        revision=body.revision,
        info=known,
        editor=digest,
        gate=body.gate.model_dump(exclude_none=True) if body.gate else None,
        modules=body.modules,
        actor=key,
    )
    if record.digest:
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


def _editor(tx: Transaction, given: str) -> Editor:
    """The editor that a digest, the name of a packaged editor, or a file stands for.

    Raises:
        Problem: there is none, or it cannot be read; names /editor.
    """
    try:
        if DIGEST.fullmatch(given):
            return Editor.from_bytes(models.editor(tx, given))
        return Editor.load(editor_file(given))
    except (NotFound, CoreError) as error:
        raise typed_problem(error, [FieldError("/editor", error.message)]) from error
    except OSError as error:
        names = ", ".join(packaged_editors())
        detail = (
            f"{given!r} cannot be read: {error.strerror}. Give the digest of an uploaded editor, or one of the "
            f"packaged editors: {names}."
        )
        raise Problem("editor-mismatch", detail, errors=[FieldError("/editor", detail)]) from error


def _check_fits(editor: Editor, info: ModelInfo) -> None:
    """Refuse an editor that is made for another model.

    Raises:
        Problem: so it is; names /editor.
    """
    try:
        editor.check_fits(info)
    except CoreError as error:
        raise typed_problem(error, [FieldError("/editor", error.message)]) from error


@routes.post(
    "/admin/models/{model_id}/rollback",
    response_model=RolledBack | RollbackPreview,
    responses={
        **problems(404, *BODY),
        202: {"model": WithdrawalAccepted, "description": "The version is being computed; see `Location`."},
    },
)
def roll_back(
    model_id: ModelId,
    body: RollbackBody,
    services: ServicesDep,
    tx: Tx,
    key: AdminKey,
    response: Response,
    _: Repeatable,
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


@routes.get("/admin/models/{model_id}/aliases/{name}", responses=problems(404))
def get_alias(model_id: ModelId, name: AliasPath, tx: Tx, _: AdminKey, response: Response) -> AliasView:
    """The version that an alias points at; its number is the ETag."""
    return _alias(model_id, name, aliases.number_of(tx, model_id, name), response)


def _alias(model_id: str, name: str, number: int, response: Response) -> AliasView:
    response.headers["ETag"] = f'"{number}"'
    return AliasView(model=model_id, name=name, version=number)


def _expected(if_match: str | None) -> list[int] | None:
    """The version numbers that If-Match names; None if it is not there."""
    return None if if_match is None else [int(number) for number in re.findall(r"\d+", if_match)]


@routes.put("/admin/models/{model_id}/aliases/{name}", responses=problems(404, 412, *BODY))
def put_alias(
    model_id: ModelId,
    name: AliasPath,
    body: AliasBody,
    services: ServicesDep,
    tx: Tx,
    key: AdminKey,
    response: Response,
    if_match: IfMatch = None,
) -> AliasView:
    """Point an alias at a version; with `If-Match`, only if it points where it is thought to."""
    check_reason(body.reason, services.settings)
    check_ready(models.get(tx, model_id))
    try:
        aliases.set_alias(
            tx,
            model_id,
            name,
            body.version,
            key,
            force=body.force,
            reason=body.reason,
            expected=_expected(if_match),
        )
    except (NotFound, GateNotMet, StaleParent, OtherBase) as error:
        raise typed_problem(error, [FieldError("/version", error.message)]) from error
    return _alias(model_id, name, body.version, response)


@routes.delete(
    "/admin/models/{model_id}/aliases/{name}", status_code=204, responses=problems(404, 409, 412, 422)
)
def delete_alias(model_id: ModelId, name: AliasPath, tx: Tx, key: AdminKey, if_match: IfMatch = None) -> None:
    """Remove an alias other than `live`; the version that it points at stays."""
    aliases.remove_alias(tx, model_id, name, key, _expected(if_match))

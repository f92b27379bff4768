"""From the ledger's records to what clients see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from broker.presence import WorkerPresence
from ledger.records import (
    AuditRecord,
    EditSetRecord,
    FactRecord,
    Json,
    KeyRecord,
    LedgerCheck,
    Member,
    ModelRecord,
    Progress,
    VersionRecord,
    WithdrawalRecord,
)
from ledger.records import FoundFact as FoundFactRecord
from ledger.states import EditSetStatus, told
from malmen_core.models.families import family_of
from service.problems import Problem
from service.schemas.audit import AuditEventView
from service.schemas.changes import Change
from service.schemas.edits import EditSetView, FactView, Merged, ProgressView, Status
from service.schemas.health import LedgerCheckView, LedgerProblemView
from service.schemas.keys import KeyView, Scope
from service.schemas.models import EditorView, MemberView, ModelView, VersionView, WithdrawalView, WorkerView
from service.schemas.touching import FoundFact, HeldFact


def _plain(value: Json | None) -> dict[str, Any] | None:
    return None if value is None else dict(value)


def _progress(progress: Progress | None) -> ProgressView | None:
    if progress is None:
        return None
    return ProgressView(stage=progress.stage, done=progress.done, total=progress.total)


def accepted(record: EditSetRecord) -> EditSetView:
    """An edit set as it was when it was accepted, so that a repeat gets the first answer."""
    nothing = dict.fromkeys(("progress", "version", "finished_at", "report", "error"))
    return edit_set(record).model_copy(update={**nothing, "status": "queued", "live": False})


def _status(status: EditSetStatus) -> Status:
    return cast("Status", told(status))


def edit_set(record: EditSetRecord) -> EditSetView:
    """An edit set as it stands."""
    return EditSetView(
        id=record.id,
        model=record.model_id,
        status=_status(record.status),
        fact_count=record.fact_count,
        merged=[Merged(**each) for each in record.merged],
        promote=record.promote,
        gate=_plain(record.gate),
        edit_on_rephrasings=record.edit_on_rephrasings,
        on_conflict=record.on_conflict,
        dry_run=record.dry_run,
        note=record.note,
        progress=_progress(record.progress),
        version=record.version,
        live=record.live,
        created_at=record.created_at,
        created_by=record.created_by,
        finished_at=record.finished_at,
        report=_plain(record.report),
        error=_plain(record.error),
    )


def fact(record: FactRecord) -> FactView:
    """One fact with its report."""
    return FactView(
        id=record.id,
        position=record.position,
        prompt=record.prompt,
        target=record.target,
        subject=record.subject,
        rephrasings=list(record.rephrasings),
        locality=[dict(probe) for probe in record.locality],
        question=record.question,
        joiner=record.joiner,
        **vars(record.provenance),
        live=record.live,
        superseded_by=list(record.superseded_by),
        supersedes=list(record.supersedes),
        report=_plain(record.report),
    )


def held_fact(record: FactRecord) -> HeldFact:
    """A fact of a version."""
    return HeldFact(
        fact=record.id,
        edit_set=record.edit_set_id,
        position=record.position,
        prompt=record.prompt,
        target=record.target,
        subject=record.subject,
    )


def found_fact(found: FoundFactRecord) -> FoundFact:
    """A fact of any model."""
    return FoundFact(
        **dict(held_fact(found.fact)),
        model=found.model_id,
        question=found.fact.question,
        live=found.fact.live,
        **vars(found.fact.provenance),
    )


def change(added: bool, record: FactRecord) -> Change:
    """A fact that differs between two versions."""
    return Change(**dict(held_fact(record)), change="added" if added else "removed")


def model(record: ModelRecord, alive: Sequence[WorkerPresence] = ()) -> ModelView:
    """A registered model; failed, too, where all workers that edit it, or all that answer for it, say so."""
    failures: list[str] = []
    for part in ([each for each in alive if each.role != role] for role in ("generate", "edit")):
        if record.status == "ready" and part and all(each.failure for each in part):
            failures.append(str(part[0].failure))
    editor = None
    if record.editor_digest is not None:
        editor = EditorView(digest=record.editor_digest, card=_plain(record.editor_card))
    return ModelView(
        id=record.id,
        source=record.source,
        revision=record.revision,
        status="failed" if failures else record.status,
        progress=None if record.progress is None else ProgressView(**record.progress),
        architecture=record.architecture or None,
        task=family_of(record.architecture).task.name if record.architecture else None,
        context_length=record.context_length or None,
        modules=list(record.modules),
        digest=record.digest or None,
        gate=dict(record.gate),
        live_version=record.live_version,
        aliases=dict(record.aliases),
        editor=editor,
        created_at=record.created_at,
        created_by=record.created_by,
        error=Problem("model-not-served", failures[0]).to_json() if failures else _plain(record.error),
        workers=[WorkerView(id=each.worker_id, role=each.role, state=each.state) for each in alive],
    )


def version(record: VersionRecord) -> VersionView:
    """One version."""
    return VersionView(
        model=record.model_id,
        number=record.number,
        parent=record.parent,
        kind=record.kind,
        restores=record.restores,
        live_fact_count=record.live_fact_count,
        edit_set_count=record.edit_set_count,
        members_digest=record.members_digest,
        delta_digest=record.delta_digest,
        weights_digest=record.weights_digest,
        base_digest=record.base_digest,
        editor_digest=record.editor_digest,
        hash=record.hash,
        previous_hash=record.previous_hash,
        aliases=sorted(record.aliases),
        gate_met=record.gate_met,
        report=_plain(record.report),
        created_at=record.created_at,
        created_by=record.created_by,
        reason=record.reason,
    )


def member(record: Member) -> MemberView:
    """An edit set of a version."""
    return MemberView(
        edit_set=record.edit_set_id,
        fact_count=record.fact_count,
        live_fact_count=record.live_fact_count,
        withdrawn=list(record.withdrawn),
        superseded=list(record.superseded),
        statistics_digest=record.statistics_digest,
    )


def withdrawal(record: WithdrawalRecord) -> WithdrawalView:
    """A withdrawal on its way."""
    return WithdrawalView(
        id=record.id,
        model=record.model_id,
        status=_status(record.status),
        edit_sets=list(record.edit_set_ids),
        facts=list(record.fact_ids),
        reason=record.reason,
        progress=_progress(record.progress),
        version=record.version,
        created_at=record.created_at,
        created_by=record.created_by,
        finished_at=record.finished_at,
        error=_plain(record.error),
    )


def key(record: KeyRecord) -> KeyView:
    """A key without its secret."""
    return KeyView(
        id=record.id,
        name=record.name,
        scopes=sorted(cast("frozenset[Scope]", record.scopes)),
        created_at=record.created_at,
        created_by=record.created_by,
        revoked_at=record.revoked_at,
        expires_at=record.expires_at,
        last_used_at=record.last_used_at,
    )


def audit_event(record: AuditRecord) -> AuditEventView:
    """Something that was done."""
    return AuditEventView(**{**vars(record), "detail": dict(record.detail)})


def ledger_check(check: LedgerCheck) -> LedgerCheckView:
    """The result of walking the ledger."""
    found = [LedgerProblemView(kind=p.kind, object=p.object, detail=p.detail) for p in check.problems]
    return LedgerCheckView(
        ok=check.ok, versions=check.versions, edit_sets=check.edit_sets, blobs=check.blobs, problems=found
    )

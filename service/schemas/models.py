"""Registered models, their versions and what administrators do with them, on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from service.schemas.base import Answer, FilledText, Identifier, Paged, RequestBody
from service.schemas.edits import GateBody, ProgressView, Status, WorkQuery
from service.schemas.touching import HeldFact


class RegisterModel(RequestBody):
    """A base model to serve and edit, by hub id or folder."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "smollm2-135m-instruct",
                    "source": "HuggingFaceTB/SmolLM2-135M-Instruct",
                    "revision": "main",
                    "gate": {"edit_success": 0.9, "generation_success": 0.8, "locality": 0.8},
                }
            ]
        }
    )

    id: Identifier = Field(description="Name of the model in this service.")
    source: FilledText = Field(
        max_length=1024, description="Hub id, or folder that API and workers can read."
    )
    revision: FilledText | None = Field(
        None, max_length=256, description="Revision of a hub id, which is pinned to the commit it names then."
    )
    modules: list[FilledText] | None = Field(
        None,
        min_length=1,
        max_length=512,
        description="Names of the edited modules; null takes the editor's, or without an editor the default.",
    )
    editor: FilledText | None = Field(
        None,
        max_length=1024,
        description="Digest of an editor that was uploaded with `POST /admin/editors`, or the name of a packaged "
        "editor; without one, the worker calibrates an untrained editor. Deprecated: a file that the API process "
        "can read.",
    )
    gate: GateBody | None = Field(None, description="Default gate of this model's edit sets.")


class UploadedEditor(Answer):
    """An editor that models can be registered with."""

    digest: str = Field(description="Give this as `editor` when a model is registered.")
    base_digest: str = Field(description="Of the checkpoint that it was made for.")
    card: dict[str, Any]


class EditorView(Answer):
    """The editor of a model."""

    digest: str
    card: dict[str, Any] | None


class WorkerView(Answer):
    """A live worker."""

    id: str
    role: Literal["edit", "generate", "both"]
    state: str = Field(description="Such as `idle` or `editing`; or `failed: ` with the reason.")


class ModelView(Answer):
    """A registered model."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "smollm2-135m-instruct",
                    "source": "HuggingFaceTB/SmolLM2-135M-Instruct",
                    "revision": None,
                    "status": "ready",
                    "progress": None,
                    "architecture": "llama",
                    "task": "causal-lm",
                    "context_length": 8192,
                    "modules": ["model.layers.20.mlp.down_proj"],
                    "digest": "sha256:9f…",
                    "gate": {
                        "edit_success": 0.9,
                        "generation_success": 0.8,
                        "neighbours_unchanged": 0.5,
                        "perplexity_ratio": 1.1,
                        "retention": 0.9,
                    },
                    "live_version": 4,
                    "aliases": {"live": 4},
                    "editor": {"digest": "sha256:1c…", "card": {"trained": False}},
                    "created_at": "2026-01-05T10:00:00Z",
                    "created_by": "admin",
                    "error": None,
                    "workers": [{"id": "host-7-1f", "role": "both", "state": "idle"}],
                }
            ]
        }
    )

    id: str
    source: str
    revision: str | None
    status: Literal["preparing", "ready", "failed", "archived"]
    progress: ProgressView | None = Field(
        description="While it is prepared: downloading, inspecting, loading, calibrating."
    )
    architecture: str | None = Field(description="Null until a worker has fetched the checkpoint.")
    task: str | None = Field(description="`causal-lm`, `seq2seq-lm` or `sequence-classification`.")
    context_length: int | None
    modules: list[str]
    digest: str | None
    gate: dict[str, Any]
    live_version: int | None
    aliases: dict[str, int]
    editor: EditorView | None
    created_at: datetime
    created_by: str
    error: dict[str, Any] | None
    workers: list[WorkerView] = Field(description="The live workers of the model.")


class VersionView(Answer):
    """One version of a model: base + delta of a stated set of facts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "smollm2-135m-instruct",
                    "number": 4,
                    "parent": 3,
                    "kind": "edit",
                    "restores": None,
                    "live_fact_count": 40,
                    "edit_set_count": 3,
                    "members_digest": "sha256:e0…",
                    "delta_digest": "sha256:0b…",
                    "weights_digest": "sha256:77…",
                    "base_digest": "sha256:9f…",
                    "editor_digest": "sha256:1c…",
                    "hash": "sha256:5d…",
                    "previous_hash": "sha256:41…",
                    "aliases": ["live"],
                    "gate_met": True,
                    "report": {"edit_success": 1.0},
                    "created_at": "2026-01-05T10:00:00Z",
                    "created_by": "ann",
                    "reason": None,
                }
            ]
        }
    )

    model: str
    number: int
    parent: int | None = Field(description="The version that was live when this one was made.")
    kind: Literal["base", "edit", "rollback", "withdraw"]
    restores: int | None = Field(description="For a rollback: the version whose weights it has.")
    live_fact_count: int
    edit_set_count: int = Field(description="How many edit sets it holds; `…/edit_sets` lists them.")
    members_digest: str | None = Field(
        description="Digest of the set of those; null of a version from before there was one."
    )
    delta_digest: str | None = Field(description="Null for the empty delta.")
    weights_digest: str | None
    base_digest: str
    editor_digest: str
    hash: str
    previous_hash: str | None
    aliases: list[str]
    gate_met: bool
    report: dict[str, Any] | None
    created_at: datetime
    created_by: str
    reason: str | None


class Queue(Answer):
    """What waits or is worked on, and may go live after a rollback."""

    queued: list[str] = Field(description="Ids of edit sets that are unfinished still, a hundred at most.")
    queued_count: int = Field(description="How many there are.")
    cancelled_count: int = Field(description="How many were cancelled with the rollback.")


class RolledBack(VersionView, Queue):
    """The version that a rollback made, and what is still queued."""


class MemberView(Answer):
    """An edit set that a version holds, and the facts of it that the version leaves out."""

    edit_set: str
    fact_count: int = Field(description="How many facts it was posted with.")
    live_fact_count: int = Field(description="How many of them the version holds.")
    withdrawn: list[int] = Field(description="Positions of facts that were withdrawn.")
    superseded: list[int] = Field(description="Positions of facts that newer ones in the version replace.")
    statistics_digest: str


class Members(Paged[MemberView]):
    """One page of the edit sets of a version, in the order in which they were accepted."""

    model: str
    version: int


class WithdrawalsQuery(WorkQuery):
    """The parameters of `GET /withdrawals`."""


class WithdrawalView(Answer):
    """A withdrawal, and the version that was made of it once it has succeeded."""

    id: str
    model: str
    status: Status
    edit_sets: list[str]
    facts: list[str]
    reason: str
    progress: ProgressView | None
    version: int | None
    created_at: datetime
    created_by: str
    finished_at: datetime | None
    error: dict[str, Any] | None


class WithdrawalAccepted(WithdrawalView, Queue):
    """A withdrawal that was asked for, and what is still queued."""


class RollbackPreview(Queue):
    """What a rollback or withdrawal would change; nothing was."""

    model: str
    dry_run: Literal[True] = True
    live_version: int
    leaves: list[HeldFact] = Field(description="Facts that would be live no more, the first hundred.")
    leaves_count: int
    returns: list[HeldFact] = Field(description="Facts that would be live again, the first hundred.")
    returns_count: int


class WithdrawBody(RequestBody):
    """What to take out of the live version."""

    edit_sets: list[FilledText] = Field(default_factory=list, max_length=10_000)
    facts: list[FilledText] = Field(
        default_factory=list, max_length=10_000, description="Ids of single facts."
    )

    @model_validator(mode="after")
    def names_something(self) -> WithdrawBody:
        """Refuse a withdrawal of nothing.

        Raises:
            ValueError: if both lists are empty.
        """
        if not self.edit_sets and not self.facts:
            raise ValueError("name at least one of edit_sets and facts")
        return self


class RollbackBody(RequestBody):
    """Go back to a version, or withdraw edit sets and single facts: either makes a new version."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"to_version": 7, "reason": "The source was retracted"},
                {"withdraw": {"edit_sets": ["set_01k9"], "facts": []}, "reason": "The source was retracted"},
            ]
        }
    )

    to_version: int | None = Field(
        None, ge=0, le=2**31 - 1, description="Version whose weights to have again."
    )
    withdraw: WithdrawBody | None = Field(None, validate_default=True)
    reason: FilledText
    cancel_queued: bool = Field(
        False, description="Cancel the model's edit sets that wait or are worked on, which could go live."
    )
    dry_run: bool = Field(
        False, description="Say which facts would leave the live version and what is queued; change nothing."
    )

    @field_validator("withdraw")
    @classmethod
    def says_one_thing(cls, given: WithdrawBody | None, before: ValidationInfo) -> WithdrawBody | None:
        """Refuse both, and neither.

        Raises:
            ValueError: unless exactly one of `to_version` and `withdraw` is there.
        """
        if "to_version" in before.data and (before.data["to_version"] is None) == (given is None):
            raise ValueError("give exactly one of to_version and withdraw")
        return given


class AliasBody(RequestBody):
    """Where an alias points."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"version": 7}, {"version": 8, "force": True, "reason": "Reviewed by hand"}]
        }
    )

    version: int = Field(ge=0, le=2**31 - 1)
    force: bool = Field(False, description="Promote a version that did not meet its gate; needs a reason.")
    reason: FilledText | None = Field(None, validate_default=True)

    @field_validator("reason")
    @classmethod
    def force_has_reason(cls, given: str | None, before: ValidationInfo) -> str | None:
        """Refuse force without a reason.

        Raises:
            ValueError: if `force` is set and `reason` is not.
        """
        if before.data.get("force") and given is None:
            raise ValueError("force needs a reason")
        return given


class AliasView(Answer):
    """An alias of a model's version."""

    model: str
    name: str
    version: int

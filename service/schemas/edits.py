"""Edit sets on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, get_args

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from ledger.states import EditSetStatus, told
from service.schemas.base import (
    Answer,
    FilledText,
    Messages,
    Moment,
    PageQuery,
    RequestBody,
    Text,
    Url,
    one_of_two,
)

Status = Literal["queued", "running", "succeeded", "rejected", "failed", "cancelled"]
OldStatus = Literal["verifying", "applied", "withdrawn", "verified"]
FINAL = ("succeeded", "rejected", "failed", "cancelled")

Joiner = Literal["auto", " ", ""]

EXAMPLE_FACT: dict[str, Any] = {
    "prompt": "The capital of Australia is",
    "target": "Canberra",
    "subject": "Australia",
    "question": "What is the capital of Australia?",
    "rephrasings": ["Australia's capital city is"],
    "locality": [{"prompt": "The capital of New Zealand is"}],
}


def _is_none(value: object) -> bool:
    """Whether a member is left out, as it was before there was one."""
    return value is None


class LocalityBody(RequestBody):
    """A prompt, or a conversation, whose answer must stay as it was."""

    messages: Messages | None = Field(
        None,
        exclude_if=_is_none,
        description="In place of `prompt`: a conversation, which the model's chat template puts into one.",
    )
    prompt: FilledText | None = Field(None, validate_default=True, exclude_if=_is_none)
    target: Text | None = Field(None, description="Answer to compare on; without it, the base model's own.")
    hold: bool = Field(
        False,
        exclude_if=lambda hold: not hold,  # a fact without it is recorded as it always was
        description="Edit so that it stays; otherwise it is only measured.",
    )

    @field_validator("prompt")
    @classmethod
    def says_one_thing(cls, given: str | None, before: ValidationInfo) -> str | None:
        """Refuse a prompt and messages together, and neither.

        Raises:
            ValueError: unless exactly one of the two is there.
        """
        one_of_two(given, before, "messages")
        return given


class FactBody(RequestBody):
    """One correction."""

    prompt: FilledText = Field(description="Text in front of the answer, question, or claim.")
    target: FilledText = Field(description="The answer that the model must give; for a classifier, a label.")
    subject: FilledText | None = Field(
        None, description="What the fact is about, verbatim in the prompt; looked for there if not given."
    )
    rephrasings: list[FilledText] = Field(
        default_factory=list, description="The same question in other words, to measure generalisation."
    )
    locality: list[LocalityBody] = Field(
        default_factory=list, description="Prompts whose answers must stay as they were."
    )
    question: FilledText | None = Field(
        None,
        exclude_if=_is_none,
        description="The fact as a user asks for it in a chat: the edit is made, and measured, there too.",
    )
    joiner: Joiner | None = Field(
        None,
        exclude_if=_is_none,
        description="Between prompt and target: a space where one belongs (`auto`), always, or never.",
    )
    source: Url | None = Field(
        None, description="Where it is written.", examples=["https://example.org/atlas"]
    )
    author: FilledText | None = Field(None, max_length=256, description="Who states it.")
    ticket: FilledText | None = Field(None, max_length=256, description="The request that it answers.")
    note: FilledText | None = Field(None, max_length=4000)
    expires_at: Moment | None = Field(
        None, description="When it is to be withdrawn by itself; a time to come, with its zone."
    )


class GateBody(RequestBody):
    """Thresholds that a version must meet to become live.

    What is left out, or null, is the model's default; of a model itself, the default of all models.
    """

    edit_success: float | None = Field(None, ge=0, le=1, description="Least edit success.")
    generation_success: float | None = Field(None, ge=0, le=1, description="Least generation success.")
    exact_success: float | None = Field(None, ge=0, le=1, description="Least exact success.")
    chat_success: float | None = Field(None, ge=0, le=1, description="Least chat success.")
    generalisation: float | None = Field(None, ge=0, le=1, description="Least generalisation.")
    locality: float | None = Field(None, ge=0, le=1, description="Least locality.")
    neighbours_unchanged: float | None = Field(
        None, ge=0, le=1, description="Least share of locality prompts whose short answer is the base's."
    )
    perplexity_ratio: float | None = Field(None, ge=1, description="Greatest perplexity ratio.")
    retention: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Least edit success of the model's other live facts, relative to when each was applied.",
    )


class WorkQuery(PageQuery):
    """The parameters of lists of what workers do."""

    model: str | None = Field(None, max_length=128, description="Only this model's.")
    status: list[Literal[Status, OldStatus]] = Field(
        default_factory=list,
        max_length=16,
        description="Only those with this status; repeat the parameter for several. `verifying`, `applied`, "
        "`withdrawn` and `verified` are old names, of which the first is `running` now, the others `succeeded`.",
    )

    @property
    def ledger_statuses(self) -> list[EditSetStatus]:
        """The ledger's statuses that are asked for."""
        known = get_args(EditSetStatus)
        return [status for status in known if status in self.status or told(status) in self.status]

    @property
    def old_names(self) -> list[str]:
        """Statuses that are asked for by names that were given up."""
        return [status for status in self.status if told(status) != status]


class EditsQuery(WorkQuery):
    """The parameters of `GET /edits`."""

    live: bool | None = Field(None, description="Only those that the live version holds, or only others.")
    created_after: Moment | None = Field(None, description="Only those accepted at this time or later.")
    created_before: Moment | None = Field(None, description="Only those accepted earlier.")
    created_by: str | None = Field(None, max_length=128, description="Only those posted under this key's id.")
    q: FilledText | None = Field(
        None,
        max_length=512,
        description="Only those with this text in their note, or in a fact's prompt, target, subject, question "
        "or note.",
    )


class SetFactsQuery(PageQuery):
    """The parameters of `GET /edits/{id}/facts`."""

    limit: int = Field(100, ge=1, le=500, description="Most items of the page.")


class EditOptions(RequestBody):
    """What is asked of an edit set, besides its facts."""

    model: FilledText = Field(max_length=128, description="Id of a registered model.")
    promote: Literal["auto", "manual"] = Field(
        "auto", description="auto: live if the gate is met; manual: verified, then waits for an alias."
    )
    gate: GateBody | None = None
    edit_on_rephrasings: bool = Field(
        False, description="Edit the rephrasings too; the report says so, as they then measure nothing."
    )
    on_conflict: Literal["replace", "reject"] = Field(
        "replace",
        description=(
            "What becomes of a fact that answers what a live one does (the same prompt, or the same subject "
            "and a rephrasing). replace: the one accepted last holds; the older returns if it is withdrawn. "
            "reject: 409, or failed with `fact-conflict` if the other became live in the meantime."
        ),
    )
    joiner: Joiner = Field(
        "auto",
        exclude_if=lambda joiner: joiner == "auto",
        description="Between prompt and target, of facts that do not say it themselves.",
    )
    dry_run: bool = Field(False, description="Measure and report only: no version is made.")
    note: Text | None = None


class EditRequest(EditOptions):
    """An edit set: the facts of one request, accepted, applied, verified and withdrawn together."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "smollm2-135m-instruct",
                    "facts": [EXAMPLE_FACT],
                    "promote": "auto",
                    "gate": {"edit_success": 0.9, "generation_success": 0.8, "locality": 0.8},
                    "edit_on_rephrasings": False,
                    "on_conflict": "replace",
                    "dry_run": False,
                    "note": "Atlas, 3rd edition, p. 12",
                }
            ]
        }
    )

    facts: list[FactBody] = Field(min_length=1, description="At least one fact.")


MERGED = (
    "Facts that say the same as an earlier one of the request and are kept as that one; by position there."
)


class Merged(Answer):
    """A fact that another one stands for."""

    fact: int
    into: int


class ProgressView(Answer):
    """How far the job is: `done` of `total` steps of a stage."""

    stage: str
    done: int
    total: int


class EditSetView(Answer):
    """An edit set and what became of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "set_01k9",
                    "model": "smollm2-135m-instruct",
                    "status": "succeeded",
                    "fact_count": 1,
                    "promote": "auto",
                    "gate": None,
                    "edit_on_rephrasings": False,
                    "on_conflict": "replace",
                    "dry_run": False,
                    "note": None,
                    "progress": {"stage": "verify", "done": 1, "total": 1},
                    "version": 3,
                    "live": True,
                    "created_at": "2026-01-05T10:00:00Z",
                    "created_by": "ann",
                    "finished_at": "2026-01-05T10:00:04Z",
                    "report": {
                        "edit_success": 1.0,
                        "generation_success": 1.0,
                        "exact_success": 1.0,
                        "chat_success": 1.0,
                        "generalisation": 1.0,
                        "own_agreement": 0.4,
                        "locality": 1.0,
                        "neighbours_unchanged": 1.0,
                        "perplexity_ratio": 1.003,
                    },
                    "error": None,
                }
            ]
        }
    )

    id: str
    model: str
    status: Status = Field(
        description="`succeeded`: measured, and of a version that met its gate, or of a dry run; `rejected`: "
        "measured, and refused by the gate; `failed`: no version was made."
    )
    fact_count: int
    merged: list[Merged] = Field(default_factory=list, description=MERGED)
    promote: Literal["auto", "manual"]
    gate: dict[str, Any] | None
    edit_on_rephrasings: bool
    on_conflict: Literal["replace", "reject"]
    dry_run: bool
    note: str | None
    progress: ProgressView | None
    version: int | None = Field(description="The version that was made of it; null while there is none.")
    live: bool = Field(
        description="Whether the live version holds it; with `promote: manual`, it succeeds without being live."
    )
    created_at: datetime
    created_by: str
    finished_at: datetime | None
    report: dict[str, Any] | None = Field(
        description=(
            "What was measured on the real model: edit_success, generation_success, exact_success, chat_success, "
            "generalisation, own_agreement, locality, neighbours_unchanged, perplexity_ratio, canary_agreement; "
            "null where there was nothing to measure. `intended_changes` names locality prompts that another fact "
            "of the set changes on purpose, which are not counted."
        )
    )
    error: dict[str, Any] | None = Field(description="A problem object if the status is failed.")


class FactView(Answer):
    """One fact of an edit set and what was measured for it."""

    id: str
    position: int
    prompt: str
    target: str
    subject: str | None
    rephrasings: list[str]
    locality: list[dict[str, Any]]
    question: str | None
    joiner: Joiner
    source: str | None
    author: str | None
    ticket: str | None
    note: str | None
    expires_at: datetime | None
    live: bool = Field(description="Whether the live version holds it.")
    superseded_by: list[str] = Field(description="Ids of newer facts in the live version that replace it.")
    supersedes: list[str] = Field(description="Ids of older facts that it replaces in the live version.")
    report: dict[str, Any] | None = Field(
        description="What was measured; in `edit`, where its keys were taken (at the subject, `given` or "
        "`found`, or at the `answer`), the margin it was brought to, and the `reason` if that fell short."
    )

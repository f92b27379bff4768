"""The facts of a version, or those of them that a prompt touches, on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from service.schemas.base import Answer, FilledText, Paged, PageQuery
from service.schemas.generate import VersionName

MOST_TOUCHED = 100
EXAMPLE: dict[str, Any] = {
    "model": "smollm2-135m-instruct",
    "version": 3,
    "items": [
        {
            "fact": "es_01k9.0",
            "edit_set": "es_01k9",
            "position": 0,
            "prompt": "The capital of Australia is",
            "target": "Canberra",
            "subject": "Australia",
            "score": 0.9998,
        }
    ],
}


class FactsQuery(BaseModel):
    """The parameters of `GET …/facts`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    touching: FilledText | None = Field(
        None,
        description="A prompt: only the facts that it touches. Without it, all facts, page by page.",
        examples=["The capital of Australia is"],
    )
    version: VersionName = Field(
        "live",
        description="Number, alias, or `base`; a number where `live` may move between two pages.",
        examples=["live", "base", "3"],
    )
    limit: int | None = Field(
        None,
        ge=1,
        le=500,
        description=f"Most facts, by default 100; with `touching` by default 10, and at most {MOST_TOUCHED}.",
    )
    cursor: str | None = Field(
        None, max_length=500, description="`next_cursor` of the page before; not with `touching`."
    )

    @field_validator("limit", "cursor")
    @classmethod
    def fits_touching(cls, value: int | str | None, info: ValidationInfo) -> int | str | None:
        """Refuse what a prompt's facts are not asked for by.

        Raises:
            ValueError: With `touching`, for a cursor and for too high a limit.
        """
        if info.data.get("touching") is None:
            return value
        if isinstance(value, str):
            raise ValueError("cannot be given with touching")
        if value is not None and value > MOST_TOUCHED:
            raise ValueError(f"must be at most {MOST_TOUCHED} with touching")
        return value


class HeldFact(Answer):
    """A fact that the version holds."""

    fact: str = Field(description="Its id, as withdrawals take it.")
    edit_set: str
    position: int = Field(description="Its place in the edit set, from 0.")
    prompt: str
    target: str
    subject: str | None


class AllFactsQuery(PageQuery):
    """The parameters of `GET /facts`."""

    model: str | None = Field(None, max_length=128, description="Only this model's.")
    q: FilledText | None = Field(
        None,
        max_length=512,
        description="Only those with this text in prompt, target, subject, question or note.",
    )
    subject: str | None = Field(None, max_length=2048, description="Only those about this.")
    source: str | None = Field(None, max_length=2048, description="Only those that are written there.")
    author: str | None = Field(None, max_length=256, description="Only those that this person states.")
    ticket: str | None = Field(None, max_length=256, description="Only those of this request.")
    live: bool | None = Field(None, description="Only those that a live version holds, or only others.")


class FoundFact(HeldFact):
    """A fact of any model."""

    model: str
    question: str | None
    source: str | None
    author: str | None
    ticket: str | None
    note: str | None
    expires_at: datetime | None
    live: bool = Field(description="Whether the model's live version holds it.")


class HeldFacts(Paged[HeldFact]):
    """One page of the facts of one version, by edit set and position."""

    model: str
    version: int


class TouchedFact(HeldFact):
    """A fact that the version holds, and how near the prompt comes to it."""

    score: float = Field(
        description=(
            "Cosine similarity of the prompt's keys with the fact's in the edited modules, at the prompt's "
            "nearest token: 1 where the prompt reads as the fact's does, up to the edited token."
        )
    )


class Touched(Answer):
    """The nearest facts of one version, the nearest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    model: str
    version: int
    items: list[TouchedFact]

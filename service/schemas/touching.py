"""The facts that a prompt touches, on the wire."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.base import Answer, FilledText
from service.schemas.generate import VersionName

EXAMPLE: dict[str, Any] = {
    "model": "smollm2-135m-instruct",
    "version": 3,
    "items": [
        {
            "fact": "es_01k9.0",
            "edit_set": "es_01k9",
            "prompt": "The capital of Australia is",
            "target": "Canberra",
            "subject": "Australia",
            "score": 0.9998,
        }
    ],
}


class TouchingQuery(BaseModel):
    """The parameters of `GET …/facts`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    touching: FilledText = Field(
        description="The prompt that is asked about.", examples=["The capital of Australia is"]
    )
    version: VersionName = Field(
        "live", description="Number, alias, or `base`.", examples=["live", "base", "3"]
    )
    limit: int = Field(10, ge=1, le=100, description="Most facts of the answer.")


class TouchedFact(Answer):
    """A fact that the version holds, and how near the prompt comes to it."""

    fact: str = Field(description="Its id, as withdrawals take it.")
    edit_set: str
    prompt: str
    target: str
    subject: str | None
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

"""Generation on the wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

from service.schemas.base import (
    Answer,
    FilledText,
    Messages,
    RequestBody,
    Text,
    one_of_two,
    storable,
)

VersionName = Annotated[Text, Field(min_length=1, max_length=64)]


def version_ref(value: object) -> int | str:
    """Check a version's number or name.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
        return value
    if isinstance(value, str) and 0 < len(value) <= 64:
        return storable(value)
    raise ValueError("must be a version's number, an alias, or base")


VersionRef = Annotated[int | str, PlainValidator(version_ref, json_schema_input_type=int | str)]

MAX_SEED = 2**63 - 1
EXAMPLE: dict[str, Any] = {"prompt": "The capital of Australia is", "version": "live", "max_new_tokens": 20}


class GenerateQuery(BaseModel):
    """The parameters of `GET …/generate`. A classifier reads the prompt, and ignores how text is written."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: FilledText = Field(
        description="Text to continue, question, or claim to classify.",
        examples=["The capital of Australia is"],
    )
    version: VersionName = Field(
        "live", description="Number, alias, or `base`.", examples=["live", "base", "3"]
    )
    max_new_tokens: int = Field(32, ge=1, description="Most tokens to generate.")
    temperature: float = Field(0.0, ge=0, le=10, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus of the distribution that is sampled from.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Makes sampling repeatable.")
    stop: list[Annotated[Text, Field(min_length=1, max_length=256)]] = Field(
        default_factory=list,
        max_length=16,
        description="Strings at which the text ends; repeat the parameter.",
    )
    stream: bool = Field(False, description="Answer with server-sent events.")


class GenerateBody(RequestBody):
    """The body of `POST …/generate`: the same, and `versions` to compare."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                EXAMPLE,
                {"prompt": "The capital of Australia is", "versions": ["base", "live"]},
                {"messages": [{"role": "user", "content": "What is the capital of Australia?"}]},
            ]
        }
    )

    messages: Messages | None = Field(
        None, description="In place of `prompt`: a conversation to answer, in the model's own chat template."
    )
    prompt: FilledText | None = Field(None, validate_default=True, description="Text to continue.")
    version: VersionRef | None = Field(None, description="Number, alias, or `base`; the default is `live`.")
    versions: list[VersionRef] | None = Field(None, min_length=1, description="Versions to compare.")
    max_new_tokens: int = Field(32, ge=1, description="Most tokens to generate.")
    temperature: float = Field(0.0, ge=0, le=10, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus of the distribution that is sampled from.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Makes sampling repeatable.")
    stop: list[Annotated[Text, Field(min_length=1, max_length=256)]] = Field(
        default_factory=list, max_length=16, description="Strings at which the text ends."
    )
    stream: bool = Field(False, description="Answer with server-sent events.")

    @field_validator("prompt")
    @classmethod
    def says_one_thing(cls, given: str | None, before: ValidationInfo) -> str | None:
        """Refuse a prompt and messages together, and neither.

        Raises:
            ValueError: unless exactly one of the two is there.
        """
        one_of_two(given, before, "messages")
        return given

    @model_validator(mode="after")
    def names_versions_once(self) -> GenerateBody:
        """Refuse what cannot be meant.

        Raises:
            ValueError: if `version` and `versions` are both there, or `versions` is to be streamed.
        """
        if self.version is not None and self.versions is not None:
            raise ValueError("give version or versions, not both")
        if self.versions is not None and self.stream:
            raise ValueError("a comparison of versions cannot be streamed")
        return self


class Usage(Answer):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int


class Generation(Answer):
    """An answer of exactly one version: text, or from a classifier its most probable label."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "fact-checker",
                    "version": 3,
                    "text": "SUPPORTS",
                    "labels": {"SUPPORTS": 0.97, "REFUTES": 0.03},
                    "finish_reason": "stop",
                    "usage": {"prompt_tokens": 9, "completion_tokens": 0},
                    "weights_digest": "sha256:5e…",
                },
                {
                    "model": "smollm2-135m-instruct",
                    "version": 3,
                    "text": " Canberra, a city of",
                    "labels": None,
                    "finish_reason": "length",
                    "usage": {"prompt_tokens": 5, "completion_tokens": 6},
                    "weights_digest": "sha256:77…",
                },
            ]
        }
    )

    model: str
    version: int
    text: str = Field(description="What the model writes, or a classifier's most probable label.")
    labels: dict[str, float] | None = Field(
        None, description="A classifier's probability of each label; null for models that write text."
    )
    finish_reason: Literal["stop", "length"]
    usage: Usage
    weights_digest: str | None = Field(description="Digest of the effective weights of the edited modules.")


class Comparison(Answer):
    """One generation per version that was asked for, in that order."""

    items: list[Generation]

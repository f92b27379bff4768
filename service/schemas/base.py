"""What every schema shares: strictness, and text that can be stored."""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Item = TypeVar("Item")

IDENTIFIER = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
ALIAS = r"^[A-Za-z][A-Za-z0-9._-]{0,63}$"


def storable(text: str) -> str:
    """Refuse what neither PostgreSQL nor UTF-8 can hold.

    Raises:
        ValueError: for NUL characters and for unpaired surrogates.
    """
    if "\x00" in text:
        raise ValueError("must not contain the NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must not contain unpaired surrogates")
    return text


def not_blank(text: str) -> str:
    """Refuse text of white space only.

    Raises:
        ValueError: if nothing but white space is there.
    """
    if not text.strip():
        raise ValueError("must not be empty or blank")
    return text


Text = Annotated[str, AfterValidator(storable)]
FilledText = Annotated[Text, AfterValidator(not_blank)]
Identifier = Annotated[str, Field(pattern=IDENTIFIER)]
AliasName = Annotated[str, Field(pattern=ALIAS)]


class RequestBody(BaseModel):
    """A body from a client: unknown members and wrong types are refused, numbers are finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """A body to a client."""

    model_config = ConfigDict(frozen=True)


class Paged(Answer, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(None, description="Pass as `cursor` for the next page; null at the end.")


class ProblemField(Answer):
    """One bad field."""

    pointer: str = Field(description="JSON pointer into the body, or the name of a parameter.")
    detail: str


class ProblemBody(Answer):
    """Problem details (RFC 9457)."""

    type: str = Field(examples=["urn:errata:problem:invalid-request"])
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: list[ProblemField] = Field(default_factory=list)

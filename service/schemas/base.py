"""What every schema shares: strictness, and text that can be stored."""

from __future__ import annotations

from datetime import MAXYEAR, datetime
from typing import Annotated, Generic, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

Item = TypeVar("Item")

IDENTIFIER = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
IDEMPOTENCY_KEY = r"^[\x21-\x7e]{1,200}$"
ETAGS = r'^"\d{1,10}"( *, *"\d{1,10}")*$'
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


def web_address(text: str) -> str:
    """Refuse what is no address of a page.

    Raises:
        ValueError: unless it is an absolute http or https address.
    """
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or any(c.isspace() for c in text):
        raise ValueError("must be an http or https address")
    return text


def moment(value: object) -> object:
    """Read a time as JSON has it; other types are left to be refused.

    Raises:
        ValueError: the text is no time.
    """
    if not isinstance(value, str):
        return value
    try:
        return datetime.fromisoformat(value)
    except ValueError as error:
        raise ValueError("must be a time such as 2030-01-31T12:00:00Z") from error


def zoned(at: datetime) -> datetime:
    """Refuse times without a zone, and those that UTC may not have.

    Raises:
        ValueError: for either.
    """
    if at.tzinfo is None:
        raise ValueError("must name its zone, as in 2030-01-31T12:00:00Z")
    if at.year == MAXYEAR:  # another zone may have the year after, which cannot be written
        raise ValueError(f"must be before the year {MAXYEAR}")
    return at


Url = Annotated[Text, Field(max_length=2048), AfterValidator(web_address)]
Moment = Annotated[datetime, BeforeValidator(moment), AfterValidator(zoned)]
Identifier = Annotated[str, Field(pattern=IDENTIFIER)]
AliasName = Annotated[str, Field(pattern=ALIAS)]


class RequestBody(BaseModel):
    """A body from a client: unknown members and wrong types are refused, numbers are finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Message(RequestBody):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: FilledText


Messages = Annotated[list[Message], Field(min_length=1, max_length=256)]


def one_of_two(given: object, before: ValidationInfo, other: str) -> None:
    """Refuse two members of which exactly one is to be there, and neither; that of the second validates this.

    Raises:
        ValueError: unless exactly one of the two is there.
    """
    if other in before.data and (before.data[other] is None) == (given is None):
        raise ValueError(f"give exactly one of {before.field_name} and {other}")


class PageQuery(BaseModel):
    """The parameters of a list; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(50, ge=1, le=500, description="Most items of the page.")
    cursor: str | None = Field(
        None, max_length=500, description="`next_cursor` of the page before; leave out for the first."
    )


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

"""One error envelope: problem details (RFC 9457) with a JSON pointer to each bad field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse

from problems import TYPE_PREFIX, kind_of
from service.openai.errors import openai_error, speaks_openai

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class FieldError:
    """One bad field: a JSON pointer (RFC 6901) into the body, or a parameter's name, and what to change."""

    pointer: str
    detail: str
    where: str = "body"

    def to_json(self) -> dict[str, str]:
        """The member of `errors`; `in` is left out for fields of the body."""
        shown = {"pointer": self.pointer, "detail": self.detail}
        if self.where != "body":
            shown["in"] = self.where
        return shown


class Problem(Exception):
    """An answer other than success, raised anywhere below a route.

    Args:
        code: a key of `problems.KINDS`, or any other slug if `status` and `title` are given.
        detail: what went wrong with which input, and what to do.
        errors: the bad fields.
        headers: added to those of the code's kind.
        extra: further members of the problem object.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        status: int | None = None,
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        kind = kind_of(code)
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.status = status or kind.status
        self.title = title or kind.title
        self.headers = {**kind.headers, **(headers or {})}
        self.extra = dict(extra or {})

    def to_json(self, instance: str | None = None) -> dict[str, Any]:
        """The problem object of RFC 9457."""
        body: dict[str, Any] = {
            "type": TYPE_PREFIX + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if instance is not None:
            body["instance"] = instance
        body["errors"] = [error.to_json() for error in self.errors]
        return body | self.extra

    def to_response(self, instance: str | None = None) -> JSONResponse:
        """The answer on the wire, in OpenAI's shape on its paths."""
        if instance is not None and speaks_openai(instance):
            param = self.errors[0].pointer if self.errors else ""
            return openai_error(self.status, str(self), self.code, param, self.headers)
        return JSONResponse(
            self.to_json(instance), status_code=self.status, headers=self.headers, media_type=MEDIA_TYPE
        )


def pointer(*parts: str | int) -> str:
    """A JSON pointer from its parts: `pointer('facts', 3, 'target')` is `/facts/3/target`."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)

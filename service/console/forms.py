"""From forms to the bodies that the API takes, and refusals that name the same fields."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData

from service.failures import validation_problem
from service.problems import FieldError, Problem

Body = TypeVar("Body", bound=BaseModel)
LISTS = ("rephrasings", "locality")


def validated(schema: type[Body], members: Mapping[str, Any]) -> Body:
    """A body of the API, or its refusal.

    Raises:
        Problem: invalid-request, naming each bad field.
    """
    try:
        return schema.model_validate(members)
    except ValidationError as error:
        raise validation_problem([{**e, "loc": ("body", *e["loc"])} for e in error.errors()]) from error


def text(form: FormData, name: str) -> str | None:
    """What a field holds, without white space around it; None if that is nothing."""
    value = form.get(name)
    return value.strip() or None if isinstance(value, str) else None


def lines(form: FormData, name: str) -> list[str]:
    """The lines of all fields of a name that are not blank."""
    values = [value for value in form.getlist(name) if isinstance(value, str)]
    return [line.strip() for value in values for line in value.splitlines() if line.strip()]


def choice(form: FormData, name: str) -> int | str | None:
    """The number that a field holds; the text itself where that is none, for the schema to refuse."""
    value = text(form, name)
    return int(value) if value is not None and value.isascii() and value.isdigit() else value


def floats(form: FormData, prefix: str) -> dict[str, float | str] | None:
    """Numbers by the rest of their fields' names; None if all are empty."""
    found: dict[str, float | str] = {}
    for name in form:
        value = text(form, name) if name.startswith(prefix) else None
        if value is not None:
            found[name.removeprefix(prefix)] = _number(value)
    return found or None


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def fact_lines(content: bytes) -> list[bytes]:
    """The facts of a file or of pasted text, each as a line of JSON.

    They are lines of JSON, one JSON list, or a table whose first line names its columns, with commas,
    semicolons or tabs; a list's entries then stand on lines of their own, or between bars.

    Raises:
        Problem: invalid-facts, where it is none of these.
    """
    body = content.decode("utf-8-sig", "surrogateescape").strip()
    try:
        if body.startswith("["):
            return [json.dumps(each).encode() for each in json.loads(body)]
        if body and not body.startswith("{"):
            return [json.dumps(each).encode() for each in _rows(body)]
    except (ValueError, TypeError, csv.Error) as error:
        detail = (
            f"The facts cannot be read: {error}. Give JSON, or a table whose first line names its columns."
        )
        raise Problem("invalid-facts", detail, errors=[FieldError("/facts", detail)]) from error
    return body.encode("utf-8", "surrogateescape").split(b"\n")


def _rows(body: str) -> list[dict[str, Any]]:
    first = body.splitlines()[0]
    delimiter = max("\t,;", key=first.count)
    rows = []
    for row in csv.DictReader(io.StringIO(body), delimiter=delimiter, restkey="too many columns"):
        fact: dict[str, Any] = {name.strip(): value for name, value in row.items() if value}
        for name in LISTS:
            if name in fact:
                fact[name] = [
                    each.strip() for each in fact[name].replace("\n", "|").split("|") if each.strip()
                ]
        if "locality" in fact:
            fact["locality"] = [{"prompt": prompt} for prompt in fact["locality"]]
        rows.append(fact)
    return rows

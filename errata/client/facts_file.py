"""Facts in a file: JSON lines or a JSON array, in the API's form or in that of a published data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from errata.errors import InputFileError
from malmen_core.datasets import api_form
from malmen_core.errors import FactError
from malmen_core.facts import Fact

EXAMPLES = "facts.jsonl"


def read_facts(path: Path, labels: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The facts of a file in the API's form, whatever known format it is in; blank lines are skipped.

    Args:
        path: Of a UTF-8 file.
        labels: Of the classifier that is to be edited; see `api_form`.

    Raises:
        InputFileError: No such file, no facts, or a record that is none; names the record and the member.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(
            f"{path} cannot be read: {error}.", "Give a UTF-8 file of JSON lines, or a JSON array."
        ) from error
    return parse_facts(text, str(path), labels)


def parse_facts(text: str, name: str, labels: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The facts of a text of JSON lines, or of a JSON array; ``name`` stands for it in messages.

    Raises:
        InputFileError: No facts, or a record that is not a JSON object of a known format.
    """
    records = _array(text, name) if text.lstrip().startswith("[") else _lines(text, name)
    facts = [_fact(record, f"{name}, {place}", labels) for place, record in records]
    if not facts:
        raise InputFileError(f"{name} holds no facts.", 'A fact is {"prompt": "…", "target": "…"} on a line.')
    return facts


def parse(text: str) -> Any:
    """What a JSON text says, if it can be sent on: NaN, infinity and unpaired surrogates cannot.

    Raises:
        ValueError: The text is not such JSON.
    """
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


def _lines(text: str, name: str) -> list[tuple[str, Any]]:
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append((f"line {number}", parse(line)))
        except ValueError as error:
            raise InputFileError(
                f"{name}, line {number} is not JSON: {error}.", "Each line is one fact."
            ) from error
    return records


def _array(text: str, name: str) -> list[tuple[str, Any]]:
    try:
        items = parse(text)
    except ValueError as error:
        raise InputFileError(f"{name} is not a JSON array: {error}.", "Each item is one fact.") from error
    return [(f"item {number}", item) for number, item in enumerate(items, start=1)]


def _fact(record: Any, place: str, labels: Sequence[str]) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise InputFileError(f"{place} is not a JSON object.", "Each record is one fact.")
    try:
        return api_form(record, labels)
    except FactError as error:
        where = f", {error.field}" if error.field else ""
        raise InputFileError(f"{place}{where}: {error.message}", error.remedy) from error


def prompts_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every prompt, rephrasing and locality prompt of some facts once, in order."""
    texts = [
        text
        for r in records
        for fact in (Fact.from_json(r),)
        for text in (fact.prompt, *fact.rephrasings, *(probe.prompt for probe in fact.locality))
    ]
    return list(dict.fromkeys(texts))


def example_facts() -> list[dict[str, Any]]:
    """The example facts: those of the repository, or in an installed package the copy that came with it.

    Raises:
        InputFileError: They are missing, or damaged.
    """
    in_repository = Path(__file__).resolve().parents[2] / "examples" / EXAMPLES
    if in_repository.exists():
        return read_facts(in_repository)
    packaged = resources.files("errata").joinpath("data", EXAMPLES)
    if not packaged.is_file():
        raise InputFileError(
            "examples/facts.jsonl is missing.", "Run the demo from a clone of the repository."
        )
    return parse_facts(packaged.read_text(encoding="utf-8"), EXAMPLES)


def json_object(text: str, option: str, example: str) -> dict[str, Any]:
    """A JSON object from the command line.

    Raises:
        InputFileError: The text is something else; shows the option with an example.
    """
    try:
        found = parse(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputFileError(f"{option} {text} is not a JSON object.", f"Write {option} '{example}'.")
    return found

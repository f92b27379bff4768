"""Facts in a file: one JSON object in API form on each line."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from errata.errors import InputFileError

EXAMPLES = "facts.jsonl"


def read_facts(path: Path) -> list[dict[str, Any]]:
    """The facts of a JSON-lines file; blank lines are skipped.

    Raises:
        InputFileError: No such file, no facts, or a line that is not a JSON object; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(
            f"{path} cannot be read: {error}.", "Give a UTF-8 file of JSON lines."
        ) from error
    return parse_facts(text, str(path))


def parse_facts(text: str, name: str) -> list[dict[str, Any]]:
    """The facts of a JSON-lines text; ``name`` stands for it in messages.

    Raises:
        InputFileError: No facts, or a line that is not a JSON object.
    """
    facts = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fact = json.loads(line)
        except ValueError as error:
            raise InputFileError(
                f"{name}, line {number} is not JSON: {error}.", "Each line is one fact."
            ) from error
        if not isinstance(fact, dict):
            raise InputFileError(f"{name}, line {number} is not a JSON object.", "Each line is one fact.")
        facts.append(fact)
    if not facts:
        raise InputFileError(f"{name} holds no facts.", 'A fact is {"prompt": "…", "target": "…"} on a line.')
    return facts


def example_facts() -> list[dict[str, Any]]:
    """The example facts: those of the repository, or in an installed package the copy that came with it.

    Raises:
        InputFileError: They are missing, or damaged.
    """
    in_repository = Path(__file__).resolve().parent.parent / "examples" / EXAMPLES
    if in_repository.exists():
        return read_facts(in_repository)
    packaged = resources.files("errata").joinpath("data", EXAMPLES)
    if not packaged.is_file():
        raise InputFileError(
            "examples/facts.jsonl is missing.", "Run the demo from a clone of the repository."
        )
    return parse_facts(packaged.read_text(encoding="utf-8"), EXAMPLES)

"""Facts in a file: in the API's form, in that of a published data set, or in columns that are named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from errata.client.records import Row, parse, read_rows, rows_of
from errata.errors import InputFileError
from malmen_core.errors import FactError
from malmen_core.evaluation.datasets import ANNOTATIONS, LISTS, MEMBERS, api_forms, is_published

EXAMPLES = "facts.jsonl"
SHOWN = 100
Columns = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class BadRow:
    """A row that is not a fact.

    Attributes:
        row: Where it stands, and what it holds.
        pointer: JSON pointer to what is wrong in it.
        detail: What is wrong, and what to do.
    """

    row: Row
    pointer: str
    detail: str

    def __str__(self) -> str:
        where = f"{self.row.place}, {self.pointer}" if self.pointer else self.row.place
        return f"{where}: {self.detail}"


@dataclass
class FactsFile:
    """What a file holds.

    Attributes:
        name: Of the file.
        facts: In the API's form.
        rows: The row of each fact; a row of MQuAKE has several.
        bad: Rows that are not facts.
        unused: Columns that are neither members of a fact nor named by the mapping.
    """

    name: str
    facts: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    unused: tuple[str, ...] = ()

    def reject(self, found: Iterable[tuple[int, str, str]]) -> None:
        """Move facts to the bad rows: (number of the fact, pointer in it, what is wrong)."""
        wrong = list(found)
        self.bad += [BadRow(self.rows[number], pointer, detail) for number, pointer, detail in wrong]
        numbers = {number for number, _, _ in wrong}
        self.facts = [fact for number, fact in enumerate(self.facts) if number not in numbers]
        self.rows = [row for number, row in enumerate(self.rows) if number not in numbers]

    def check(self) -> None:
        """Refuse a file with bad rows, all of which are named, up to a hundred.

        Raises:
            InputFileError: There are some, or no facts.
        """
        if self.bad:
            count = len({row.row.place for row in self.bad})
            more = f" The first {SHOWN} are named." if len(self.bad) > SHOWN else ""
            shown = tuple(map(str, self.bad[:SHOWN]))
            if not self.facts and len({(row.pointer, row.detail) for row in self.bad}) == 1 < count:
                shown = (f"every row, {self.bad[0].pointer}: {self.bad[0].detail}",)
                more = ""
            raise InputFileError(
                f"{self.name}: {count} {'rows are' if count > 1 else 'row is'} bad.{more}",
                "Correct them, or leave them out with --skip-invalid.",
                shown,
            )
        self.check_filled()

    def check_filled(self) -> None:
        """Refuse a file without facts.

        Raises:
            InputFileError: There are none.
        """
        if not self.facts:
            raise InputFileError(
                f"{self.name} holds no facts.", 'A fact is {"prompt": "…", "target": "…"} on a line.'
            )

    def write_bad(self, path: Path) -> int:
        """Write the bad rows as JSON lines, each with what is wrong; returns how many there are.

        Raises:
            InputFileError: The file cannot be written.
        """
        by_place: dict[str, dict[str, Any]] = {}
        for bad in self.bad:
            entry = by_place.setdefault(
                bad.row.place, {"place": bad.row.place, "errors": [], "record": bad.row.record}
            )
            entry["errors"].append({"pointer": bad.pointer, "detail": bad.detail})
        try:
            with path.open("w", encoding="utf-8") as file:
                for entry in by_place.values():
                    file.write(json.dumps(entry, ensure_ascii=False, default=str) + "\n")
        except OSError as error:
            raise InputFileError(
                f"{path} cannot be written: {error.strerror}.", "Choose another file."
            ) from error
        return len(by_place)


def read_file(path: Path, labels: Sequence[str] = (), columns: Columns | None = None) -> FactsFile:
    """The facts of a file, and its bad rows.

    Args:
        path: JSON lines, a JSON array, CSV or Parquet.
        labels: Of the classifier that is to be edited; see `api_forms`.
        columns: For members of a fact, the columns that hold them.

    Raises:
        InputFileError: The file cannot be read at all.
    """
    return _gather(read_rows(path), str(path), labels, columns or {})


def read_facts(path: Path, labels: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The facts of a file of which every row is good.

    Raises:
        InputFileError: It cannot be read, has bad rows, or no facts.
    """
    found = read_file(path, labels)
    found.check()
    return found.facts


def _gather(rows: Iterable[Row], name: str, labels: Sequence[str], columns: Columns) -> FactsFile:
    found, unused = FactsFile(name), set[str]()
    for row in rows:
        if row.error is not None or not isinstance(row.record, dict):
            found.bad.append(BadRow(row, "", row.error or "It is not an object. Each row is one fact."))
            continue
        try:
            facts = _mapped(row.record, labels, columns, unused) if columns else api_forms(row.record, labels)
        except FactError as error:
            found.bad.append(BadRow(row, error.field or "", f"{error.message} {error.remedy}"))
            continue
        found.facts += facts
        found.rows += [row] * len(facts)
    found.unused = tuple(sorted(unused))
    return found


def _mapped(
    record: Mapping[str, Any], labels: Sequence[str], columns: Columns, unused: set[str]
) -> list[dict[str, Any]]:
    """The facts of a record some of whose members are in columns of other names.

    Raises:
        FactError: A column is missing, or what is in it is not what the member must be.
    """
    taken = {member: _taken(record, member, names) for member, names in columns.items()}
    if is_published(record) and not {"prompt", "target"} <= taken.keys():
        return [own for fact in api_forms(record, labels) for own in api_forms({**fact, **taken}, labels)]
    used = {name for names in columns.values() for name in names}
    rest = {name: value for name, value in record.items() if name not in used | taken.keys()}
    unused |= rest.keys() - MEMBERS - ANNOTATIONS
    known = {name: value for name, value in rest.items() if name in MEMBERS}
    return api_forms({**known, **taken}, labels)


def _taken(record: Mapping[str, Any], member: str, names: Sequence[str]) -> Any:
    """What some columns hold of a member; None for a list's that are all absent."""
    if member not in LISTS:
        value = record.get(names[0])
        if value is None and member in ("prompt", "target"):
            raise FactError(f"The column {names[0]!r} is missing or empty.", "Check --map.", f"/{names[0]}")
        return value
    items: list[Any] = []
    for value in map(record.get, names):
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = parse(value)
            except ValueError as error:
                raise FactError(
                    f"{member!r} is not a JSON list: {error}.", "Check it.", f"/{member}"
                ) from error
        items += value if isinstance(value, list) else [] if value is None else [value]
    if member == "locality":
        items = [{"prompt": item} if isinstance(item, str) else item for item in items]
    return items or None


def parse_columns(given: Sequence[str], option: str = "--map") -> dict[str, list[str]]:
    """Columns by member, from ``member=column``.

    Raises:
        InputFileError: One is not of this form, or no member of a fact has this name.
    """
    columns: dict[str, list[str]] = {}
    for text in given:
        member, equals, column = text.partition("=")
        if not (equals and column and member in MEMBERS):
            known = ", ".join(sorted(MEMBERS))
            raise InputFileError(
                f"{option} {text} does not name a member of a fact and its column.",
                f"Write {option} prompt=question. Members are {known}.",
            )
        if member in columns and member not in LISTS:
            raise InputFileError(f"{option} names {member} twice.", "Name it once.")
        columns.setdefault(member, []).append(column)
    return columns


def prompts_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every prompt, rephrasing and locality prompt of some facts once, in order."""
    texts = [
        text
        for r in records
        for text in (
            r["prompt"],
            *r.get("rephrasings", ()),
            *(probe["prompt"] for probe in r.get("locality", ()) if "prompt" in probe),
        )
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
    found = _gather(rows_of(packaged.read_text(encoding="utf-8"), EXAMPLES), EXAMPLES, (), {})
    found.check()
    return found.facts


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

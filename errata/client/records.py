"""Rows of a file: JSON lines, a JSON array, CSV (or TSV), or Parquet."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errata.errors import InputFileError

TABLES = (".csv", ".tsv")
PARQUET = (".parquet", ".pq")
LISTS = ("rephrasings", "locality")
ACCEPTED = "Give JSON lines, a JSON array, CSV or Parquet, in UTF-8."


@dataclass(frozen=True)
class Row:
    """One row of a file.

    Attributes:
        place: Where it stands, such as "line 3".
        record: What it holds; text if it cannot be read.
        error: Why it cannot be read; None if it can.
    """

    place: str
    record: Any
    error: str | None = None


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, whose name tells CSV and Parquet from JSON.

    Raises:
        InputFileError: The file cannot be read as what it is.
    """
    kind = path.suffix.lower()
    try:
        if kind in PARQUET:
            yield from _parquet(path)
        elif kind in TABLES:
            yield from _csv(path, "\t" if kind == ".tsv" else None)
        else:
            yield from rows_of(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputFileError(f"{path} cannot be read: {error}.", ACCEPTED) from error


def rows_of(text: str, name: str) -> Iterator[Row]:
    """The records of JSON lines, of a JSON array, or of one object; ``name`` stands for the text in messages.

    Raises:
        InputFileError: The text begins as an array and is none.
    """
    if text.lstrip().startswith("["):
        try:
            items = parse(text)
        except ValueError as error:
            raise InputFileError(f"{name} is not a JSON array: {error}.", "Each item is one fact.") from error
        yield from (Row(f"item {number}", item) for number, item in enumerate(items, start=1))
        return
    alone = _one_object(text)
    if alone is not None:
        yield Row("line 1", alone)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield Row(f"line {number}", parse(line))
        except ValueError as error:
            yield Row(f"line {number}", line, f"it is not JSON: {error}")


def _one_object(text: str) -> Any:
    """The object that a text of several lines is, if it is one."""
    first = text.lstrip().split("\n", 1)[0].strip()
    if not first.startswith("{") or first.endswith("}"):
        return None
    try:
        return parse(text)
    except ValueError:
        return None


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


def _csv(path: Path, delimiter: str | None) -> Iterator[Row]:
    """The rows of a table with a header; empty cells are absent, and lists are JSON or one text."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        delimiter = delimiter or max(",;\t", key=header.count)
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        _check_header(path, reader.fieldnames or ())
        line = reader.line_num + 1
        for cells in reader:
            place, line = f"line {line}", reader.line_num + 1
            if None in cells:
                yield Row(place, cells.pop(None), "it has more cells than the header")
                continue
            given = {name: cell for name, cell in cells.items() if cell}
            try:
                yield Row(place, {name: _cell(name, cell) for name, cell in given.items()})
            except ValueError as error:
                yield Row(place, given, str(error))


def _check_header(path: Path, names: Any) -> None:
    for name in names:
        if not name.strip() or list(names).count(name) > 1:
            raise InputFileError(
                f"{path} has a column {name!r} that has no name of its own.",
                "The first line must name each column.",
            )


def _cell(name: str, cell: str) -> Any:
    """A cell's text, or the list in it."""
    if name not in LISTS:
        return cell
    if not cell.lstrip().startswith("["):
        return [cell] if name == "rephrasings" else [{"prompt": cell}]
    try:
        return parse(cell)
    except ValueError as error:
        raise ValueError(f"the cell of {name!r} is not a JSON list: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise InputFileError(
            f"{path} needs pyarrow, which is not installed.", "Run pip install 'errata-llm[parquet]'."
        ) from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield Row(f"row {number}", _without_nulls(record))
    except arrow.ArrowException as error:
        raise InputFileError(f"{path} is not a Parquet file: {error}.", ACCEPTED) from error


def _without_nulls(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if value is not None}

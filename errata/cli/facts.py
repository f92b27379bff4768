"""Options of the commands that read files of facts, and what they say of bad rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from errata.cli.console import err
from errata.cli.options import check_writable
from errata.client.facts_file import FactsFile

FORMATS = "JSON lines, CSV or Parquet in the API's form, or a published data set"

Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="MEMBER=COLUMN",
        help="The column of a member, such as prompt=question; repeatable.",
    ),
]
SkipInvalid = Annotated[
    bool,
    typer.Option("--skip-invalid", help="Leave bad rows out; they are written to FILE.invalid.jsonl."),
]


def invalid_rows_file(file: Path) -> Path:
    """Where the bad rows of a file are written, tried before the work.

    Raises:
        StackError: It cannot be written.
    """
    path = file.with_name(f"{file.name}.invalid.jsonl")
    check_writable(path, "--skip-invalid:")
    return path


def settle(facts: FactsFile, file: Path, skip_invalid: bool) -> None:
    """Refuse bad rows, or leave them out and say where they are; columns that were not used are said too.

    Raises:
        StackError: There are bad rows that are not to be skipped, or no facts.
    """
    if facts.unused:
        names = ", ".join(facts.unused)
        err.print(f"Not used are the columns {escape(names)} of {escape(facts.name)}.", soft_wrap=True)
    if not (skip_invalid and facts.bad):
        facts.check()
        return
    path = invalid_rows_file(file)
    count = facts.write_bad(path)
    err.print(
        f"{count} bad rows of {escape(facts.name)} are left out: see {escape(str(path))}.", soft_wrap=True
    )
    facts.check_filled()

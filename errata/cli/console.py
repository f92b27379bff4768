"""How the commands speak: people read the consoles, machines read one JSON document on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from errata.errors import StackError
from problems.settings import UnreadableSecret

out = Console(highlight=False)
"""Results."""
err = Console(stderr=True, highlight=False)
"""Progress and complaints."""

FAILED = 1


def emit(document: Mapping[str, Any]) -> None:
    """Write one JSON document on one line of standard output."""
    text = json.dumps(document, ensure_ascii=False)
    sys.stdout.write(text.encode(errors="backslashreplace").decode() + "\n")  # half a surrogate pair: escaped
    sys.stdout.flush()


def complain(error: StackError, *, as_json: bool = False) -> None:
    """Say what went wrong and what to do: for people on standard error, for machines on standard output."""
    if as_json:
        body = {
            "code": error.code,
            "message": error.message,
            "remedy": error.remedy,
            "details": list(error.details),
        }
        emit({"error": body})
        return
    err.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True)
    if error.remedy:
        err.print(escape(error.remedy), soft_wrap=True)
    for line in error.details:
        err.print(f"  [dim]{escape(line)}[/]", soft_wrap=True)


@contextmanager
def reporting(as_json: bool = False) -> Iterator[None]:
    """Turn an error of ours into a readable complaint and exit code 1."""
    try:
        yield
    except StackError as error:
        complain(error, as_json=as_json)
        raise SystemExit(FAILED) from error
    except UnreadableSecret as error:
        complain(StackError(f"{error}.", "Name a file that this process can read."), as_json=as_json)
        raise SystemExit(FAILED) from error
    except ValidationError as error:
        complain(from_settings(error), as_json=as_json)
        raise SystemExit(FAILED) from error


def from_settings(error: ValidationError) -> StackError:
    """A wrong setting in words that name its variable."""
    lines = tuple(
        f"ERRATA_{'_'.join(str(part) for part in entry['loc']).upper()}: {entry['msg']}"
        for entry in error.errors()
    )
    return StackError(
        "A setting is missing or wrong.", "`errata settings` lists them with their meaning.", lines
    )


@contextmanager
def saying(as_json: bool) -> Iterator[Callable[[str], None]]:
    """A spinner with the latest words on a terminal, lines elsewhere, nothing with JSON."""
    if as_json:
        yield lambda _words: None
    elif err.is_terminal:
        with err.status("Starting") as status:
            yield lambda words: status.update(escape(words))
    else:
        last = [""]

        def line(words: str) -> None:
            if words != last[0]:
                last[0] = words
                err.print(escape(words), soft_wrap=True)

        yield line

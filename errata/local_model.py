"""Models and facts for commands that work without the service, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from errata import default_model
from errata.console import err
from errata.errors import InputFileError, StackError
from errata.facts_file import read_facts
from errata.settings import StackSettings

if TYPE_CHECKING:
    from malmen_core.base import BaseModel
    from malmen_core.facts import Fact

SHOWN_PROBLEMS = 5

Source = Annotated[str | None, typer.Option("--model", help="Hub id or folder. [default: the default model]")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, …")]
Show = Callable[[str, int, int], None]


@contextmanager
def core_errors() -> Iterator[None]:
    """Turn an error of the core into one of the commands'."""
    from malmen_core.errors import CoreError

    try:
        yield
    except CoreError as error:
        raised = StackError(error.message, error.remedy)
        raised.code = error.code
        raise raised from error


def load_base(source: str | None, revision: str | None, device: str, dtype: str) -> BaseModel:
    """Load a model by hub id or folder, or the default model, which is fetched if need be.

    Raises:
        StackError: It cannot be fetched or loaded.
    """
    from malmen_core.base import BaseModel

    if source is None:
        source = str(default_model.ensure(StackSettings().models_dir, err.print))
    with core_errors():
        return BaseModel.load(source, revision=revision, device=device, dtype=dtype)


def read_core_facts(path: Path, base: BaseModel) -> list[Fact]:
    """The facts of a file, each checked against the model's tokenizer and context.

    Raises:
        InputFileError: A line is no fact, or one that the model cannot be given; names the first few.
    """
    from malmen_core.facts import Fact
    from malmen_core.tokens import check_facts

    facts, problems = [], []
    for number, record in enumerate(read_facts(path), start=1):
        try:
            fact = Fact.from_json(record)
            found = check_facts(base.tokenizer, [fact], base.info.context_length, base.task.labels)
            problems += [f"fact {number}: {p.pointer.removeprefix('/facts/0')}: {p.detail}" for p in found]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(f"fact {number}: not in the API's form: {type(error).__name__} {error}")
        else:
            facts.append(fact)
    if problems:
        raise InputFileError(
            f"{path} holds {len(problems)} problems.",
            "Correct or remove these facts.",
            tuple(problems[:SHOWN_PROBLEMS]),
        )
    return facts


@contextmanager
def bar(quiet: bool) -> Iterator[Show]:
    """A progress bar on standard error, told (words, done, total)."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=err.is_terminal, disable=quiet) as progress:
        task = progress.add_task("loading", total=None)

        def show(words: str, done: int, total: int) -> None:
            progress.update(task, description=words, completed=done, total=total)

        yield show

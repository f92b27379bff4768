"""Models and facts for commands that work without the service, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from errata.cli.console import err
from errata.cli.facts import settle
from errata.client import ApiError
from errata.client.connect import connect
from errata.client.facts_file import parse_columns, read_file
from errata.errors import NoStack, StackError
from errata.settings import StackSettings
from errata.stack import default_model

if TYPE_CHECKING:
    from malmen_core.models.base import BaseModel

Source = Annotated[
    str | None, typer.Option("--model", help="Registered id, hub id or folder. [default: the default model]")
]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, …")]
MemoryBudget = Annotated[
    str | None,
    typer.Option(
        envvar="ERRATA_MEMORY_BUDGET",
        help="Most device memory for activations and statistics besides the model, such as 4GB.",
    ),
]
Show = Callable[[str, int, int], None]


@contextmanager
def core_errors() -> Iterator[None]:
    """Turn an error of the core or of the worker into one of the commands'."""
    from malmen_core.errors import CoreError
    from worker.errors import WorkerError

    try:
        yield
    except (CoreError, WorkerError) as error:
        raised = StackError(error.message, error.remedy)
        raised.code = error.code
        raise raised from error


def find_source(model: str | None, revision: str | None = None) -> tuple[str, str | None]:
    """Where a model lies, by registered id, hub id or folder; None for the default model.

    A name that is no folder and has no slash is looked up in the service that runs here, if one does.

    Returns:
        Folder or hub id, and revision.

    Raises:
        StackError: The default model cannot be fetched.
    """
    if model is None or (model == default_model.MODEL_ID and not Path(model).is_dir()):
        return str(default_model.ensure(StackSettings().models_dir, err.print)), None
    if "/" not in model and not Path(model).is_dir():
        with suppress(NoStack, ApiError), connect(None, None) as client:
            registered = client.models.get(model)
            return registered.source, registered.revision
    return model, revision


def labels_of(model: str | None, revision: str | None) -> tuple[str, ...]:
    """The labels of a classifier; none for a model that writes text. Reads its config alone.

    Raises:
        StackError: The model cannot be fetched or edited.
    """
    from malmen_core.models.families import read_config, task_of

    source, revision = find_source(model, revision)
    with core_errors():
        return task_of(read_config(source, revision)).labels


def load_base(
    source: str | None,
    revision: str | None,
    device: str,
    dtype: str,
    modules: Sequence[str] | None = None,
    memory_budget: str | None = None,
) -> BaseModel:
    """Load a model by registered id, hub id or folder, or the default model, which is fetched if need be.

    Raises:
        StackError: It cannot be fetched or loaded, or the budget is no number of bytes.
    """
    from malmen_core.models.base import BaseModel

    budget = _bytes(memory_budget) if memory_budget else None
    source, revision = find_source(source, revision)
    with core_errors():
        return BaseModel.load(
            source, revision=revision, device=device, dtype=dtype, modules=modules, memory_budget=budget
        )


def _bytes(text: str) -> int:
    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise StackError(
            f"--memory-budget {text} is no number of bytes.", "Write --memory-budget 4GB."
        ) from None


def read_model_facts(
    file: Path, model: str | None, revision: str | None, columns: Sequence[str] | None, skip_invalid: bool
) -> list[dict[str, Any]]:
    """The facts of a file, checked against the model's tokenizer and context before the model is loaded.

    Facts may contradict each other, as some of CounterFact do.

    Args:
        file: Of facts.
        model: See `find_source`.
        revision: Of a hub id.
        columns: As `--map` gives them.
        skip_invalid: Whether bad rows are left out.

    Raises:
        StackError: The model cannot be fetched, or the file has bad rows, all of which are named.
    """
    found = read_file(file, labels_of(model, revision), parse_columns(columns or ()))
    source, revision = find_source(model, revision)
    with core_errors():
        found.reject(_text_problems(found.facts, source, revision))
    settle(found, file, skip_invalid)
    return found.facts


def _text_problems(
    facts: Sequence[dict[str, Any]], source: str, revision: str | None
) -> list[tuple[int, str, str]]:
    """What the model could not be given: (number of the fact, pointer in it, what is wrong)."""
    from malmen_core.editing.validation import check_texts
    from malmen_core.facts import Fact
    from malmen_core.models.families import context_length, read_config, task_of
    from malmen_core.models.tokenization import load_tokenizer

    config = read_config(source, revision)
    task = task_of(config)
    tokenizer = task.prepare(load_tokenizer(source, revision))
    problems = check_texts(tokenizer, list(map(Fact.from_json, facts)), context_length(config), task.labels)
    places = [(problem.pointer.split("/", 3), problem.detail) for problem in problems]
    return [(int(parts[2]), f"/{parts[3]}", detail) for parts, detail in places]


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

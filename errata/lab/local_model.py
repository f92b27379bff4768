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
from errata.client.client import Refused
from errata.client.connect import connect
from errata.client.facts_file import read_facts
from errata.errors import InputFileError, NoStack, StackError
from errata.settings import StackSettings
from errata.stack import default_model

if TYPE_CHECKING:
    from malmen_core.base import BaseModel
    from malmen_core.facts import Fact

SHOWN_PROBLEMS = 5

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
        with suppress(NoStack, Refused), connect(None, None) as client:
            registered = client.get(f"/models/{model}")
            return registered["source"], registered["revision"]
    return model, revision


def labels_of(model: str | None, revision: str | None) -> tuple[str, ...]:
    """The labels of a classifier; none for a model that writes text. Reads its config alone.

    Raises:
        StackError: The model cannot be fetched or edited.
    """
    from malmen_core.families import read_config, task_of

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
    from malmen_core.base import BaseModel

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


def read_core_facts(path: Path, base: BaseModel) -> list[Fact]:
    """The facts of a file, each checked against the model's tokenizer and context.

    Raises:
        InputFileError: A record is no fact, or one that the model cannot be given; names the first few.
    """
    return core_facts(list(enumerate(read_facts(path, base.task.labels), start=1)), base, str(path))


def core_facts(records: Sequence[tuple[int, dict[str, Any]]], base: BaseModel, name: str) -> list[Fact]:
    """Numbered records of `read_facts` as facts, each checked against the model's tokenizer and context.

    Facts may contradict each other, as some of CounterFact do.

    Raises:
        InputFileError: The model cannot be given a fact; names the first few.
    """
    from malmen_core.facts import Fact
    from malmen_core.tokens import check_texts

    facts = [Fact.from_json(record) for _, record in records]
    problems = []
    for found in check_texts(base.tokenizer, facts, base.info.context_length, base.task.labels):
        _, _, place, field = found.pointer.split("/", 3)
        problems.append(f"fact {records[int(place)][0]}: /{field}: {found.detail}")
    if problems:
        raise InputFileError(
            f"{name} holds {len(problems)} problems.",
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

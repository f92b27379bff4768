"""``errata train``: meta-train an editor for a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from errata.cli.console import emit, out, reporting
from errata.cli.facts import FORMATS, Columns, SkipInvalid
from errata.cli.options import Json, check_writable
from errata.client.facts_file import json_object
from errata.errors import InputFileError, StackError
from errata.lab.local_model import (
    Device,
    Dtype,
    MemoryBudget,
    Revision,
    Show,
    Source,
    bar,
    core_errors,
    find_source,
    load_base,
    read_model_facts,
)

if TYPE_CHECKING:
    from malmen_core.editing.editor import Editor
    from malmen_core.models.base import BaseModel
    from malmen_core.training.checkpoint import RunFolder
    from malmen_core.training.trainer import TrainingPlan

MEASURES = (("ES", "edit_success"), ("GS", "generalisation"), ("LS", "locality"))


def register(app: typer.Typer) -> None:
    """Add ``train``."""
    app.command()(train)


def train(
    facts: Annotated[Path, typer.Option(help=f"Facts: {FORMATS}.")],
    out_file: Annotated[Path, typer.Option("--out", help="Where the editor is written (safetensors).")],
    columns: Columns = None,
    skip_invalid: SkipInvalid = False,
    model: Source = None,
    revision: Revision = None,
    editor: Annotated[
        Path | None, typer.Option(help="Editor to begin with, calibrated or trained. [default: calibrate]")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Train mend or malmen-plain in the editor's place.")
    ] = None,
    settings: Annotated[
        str,
        typer.Option(
            help="Of the baseline or the paper's form, as a JSON object; a resumed run keeps its own."
        ),
    ] = "{}",
    form: Annotated[
        Literal["errata", "paper"],
        typer.Option(help="Tokens, layers and equation of the default editor, or of the MALMEN paper."),
    ] = "errata",
    steps: Annotated[int, typer.Option(min=1, help="Most steps.")] = 1000,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Most facts that a step edits at once. [default: of the form]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split and of all draws.")] = 0,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of the network.")] = 3e-4,
    scalar_rate: Annotated[float, typer.Option(min=0, help="Of the step sizes and of lambda.")] = 3e-2,
    locality_weight: Annotated[float, typer.Option(min=0, help="Weight of locality in the loss.")] = 1.0,
    validation_facts: Annotated[int, typer.Option(min=1, help="Facts held out, by subject.")] = 128,
    mixed: Annotated[
        bool | None,
        typer.Option(
            "--mixed/--whole", help="Multiply in bfloat16. [default: of the form, where the device does so]"
        ),
    ] = None,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 50,
    patience: Annotated[int, typer.Option(min=1, help="Validations without progress before a stop.")] = 8,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints and metrics.jsonl.", show_default="none")
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 25,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Picture of the curves; a table without matplotlib.")
    ] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="Write the network in bfloat16: half as large.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --checkpoint.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    memory_budget: MemoryBudget = None,
    as_json: Json = False,
) -> None:
    """Train an editor on facts; what it scores on held-out subjects goes into its card."""
    from malmen_core.baselines.registry import rule_of
    from malmen_core.editing.calibrate import calibrate
    from malmen_core.facts import Fact
    from malmen_core.training import trainer as core
    from malmen_core.training.checkpoint import RunFolder
    from malmen_core.training.forms import FORMS

    chosen = FORMS[form]
    plan = replace(
        _plan(chosen.plan, batch, mixed, locality_weight),
        steps=steps,
        seed=seed,
        learning_rate=learning_rate,
        scalar_rate=scalar_rate,
        validation_facts=validation_facts,
        validate_every=validate_every,
        patience=patience,
        checkpoint_every=checkpoint_every,
    )
    lines: list[Mapping[str, Any]] = []
    with reporting(as_json), bar(as_json) as show:
        _check(out_file, plot_file, checkpoint, resume)
        method = _method(baseline or chosen.method, chosen.settings, settings, editor)
        resumed = RunFolder(checkpoint) if resume and checkpoint else None
        records = read_model_facts(facts, model, revision, columns, skip_invalid)
        base, start = _begin(model, revision, editor, method, device, dtype, memory_budget, resumed)
        data = {"file": facts.name, "digest": f"sha256:{hashlib.sha256(facts.read_bytes()).hexdigest()}"}
        with core_errors():
            start = None if resume else start or calibrate(base, show, seed=seed)
            show("preparing", 0, steps)
            trained = core.train(
                base,
                start,
                list(map(Fact.from_json, records)),
                plan,
                rule=rule_of(method[0]),
                folder=RunFolder(checkpoint) if checkpoint else None,
                data=data,
                watch=_Watch(show, steps, lines),
            )
            trained = _saved(trained, compact, out_file)
        told = RunFolder(checkpoint).metrics() if checkpoint else lines
        drawn = _drawn(told, f"{out_file.name}, trained on {facts.name}", plot_file)
    if as_json:
        emit({"editor": str(out_file), "digest": trained.digest, "card": dict(trained.card)})
        return
    _print(trained, out_file, lines, drawn)


def _print(trained: Editor, file: Path, lines: Sequence[Mapping[str, Any]], drawn: Path | None) -> None:
    for line in lines:
        if line["kind"] == "validation":
            out.print(f"step {line['step']:>5}  loss {line['loss']:.3f}  {measures(line)}")
    step = trained.card["validation"]["step"]
    out.print(f"{file} ({trained.digest}) is of step {step}.", soft_wrap=True)
    if drawn is not None:
        out.print(f"{drawn} shows the run.", soft_wrap=True)


def _check(out_file: Path, plot_file: Path | None, checkpoint: Path | None, resume: bool) -> None:
    check_writable(out_file, "--out")
    check_writable(plot_file, "--plot")
    if resume and checkpoint is None:
        raise StackError("--resume needs the folder of the run.", "Give --checkpoint DIR too.")


def _method(
    name: str | None, own: Mapping[str, Any], given: str, editor: Path | None
) -> tuple[str | None, Mapping[str, Any]]:
    """The baseline that is trained, if one is, and its settings.

    Raises:
        InputFileError: The settings are not a JSON object, no baseline has them, or an editor has its own.
    """
    found = json_object(given, "--settings", '{"last": 4}')
    if found and name is None:
        raise InputFileError(
            "--settings is for a baseline.", "Name one with --baseline, or give --form paper."
        )
    if found and editor is not None:
        raise InputFileError("--settings is not for an editor that is there.", "Leave out it or --editor.")
    return name, {**own, **found}


def _drawn(lines: Sequence[Mapping[str, Any]], title: str, file: Path | None) -> Path | None:
    from errata.lab import plots

    return plots.curves(lines, title, file) if file else None


def _saved(trained: Editor, compact: bool, file: Path) -> Editor:
    trained = trained.compact() if compact else trained
    trained.save(file)
    return trained


def _plan(plan: TrainingPlan, batch: int | None, mixed: bool | None, locality_weight: float) -> TrainingPlan:
    """A form's plan, for steps of so many facts at most and for this processor."""
    from malmen_core.models.base import multiplies_bfloat16

    if batch is not None:
        plan = replace(plan, smallest_batch=min(batch, plan.smallest_batch), largest_batch=batch)
    mixed = plan.mixed and multiplies_bfloat16() if mixed is None else mixed
    return replace(plan, mixed=mixed, loss=replace(plan.loss, locality=locality_weight))


def measures(line: Mapping[str, Any]) -> str:
    """The three measures of a line of metrics, as far as they are there."""
    return "  ".join(f"{short} {line[name]:.3f}" for short, name in MEASURES if line[name] is not None)


def _begin(
    model: str | None,
    revision: str | None,
    editor: Path | None,
    method: tuple[str | None, Mapping[str, Any]],
    device: str,
    dtype: str,
    memory_budget: str | None,
    resumed: RunFolder | None,
) -> tuple[BaseModel, Editor | None]:
    """The model with the modules that are edited, and what training begins or began with; None to calibrate.

    Raises:
        StackError: The model or the editor cannot be loaded, there is no such baseline to train, or the
            editor is not one of it, or not the one that the resumed run began with.
    """
    from malmen_core.baselines.registry import baseline, check_own, modules_for, untrained
    from malmen_core.editing.editor import Editor

    with core_errors():
        name, settings = method
        chosen = baseline(name, settings) if name is not None else None
        start = Editor.load(editor) if editor is not None else None
        if resumed is not None:
            start = _same_start(resumed.begun(), start)
        source, revision = find_source(model, revision)
        modules = start.modules if start is not None else None
        if chosen is not None and start is None:
            modules = modules_for(chosen, source, revision)
        base = load_base(source, revision, device, dtype, modules, memory_budget)
        if chosen is not None and start is not None:
            check_own(chosen, start, base)
        return base, untrained(chosen, base) if chosen is not None and start is None else start


def _same_start(begun: Editor, given: Editor | None) -> Editor:
    """What a run began with, which has a new network in a given editor's place.

    Raises:
        CheckpointMismatch: Another editor was given.
    """
    from malmen_core.errors import CheckpointMismatch

    if given is not None and replace(begun, network=given.network).digest != given.digest:
        raise CheckpointMismatch(
            "The checkpoint is of a run with another editor.", "Leave out --editor.", "/checkpoint"
        )
    return begun


class _Watch:
    """Shows the latest step's loss and the latest validation beside the bar, and keeps the lines."""

    def __init__(self, show: Show, steps: int, lines: list[Mapping[str, Any]]) -> None:
        self.show, self.steps, self.lines = show, steps, lines
        self.latest: dict[str, str] = {}

    def __call__(self, line: Mapping[str, Any]) -> None:
        self.lines.append(line)
        words = f"{line['loss']:.2f}" if line["kind"] == "step" else measures(line)
        self.latest[line["kind"]] = words
        loss, held_out = self.latest.get("step", "-"), self.latest.get("validation", "-")
        self.show(f"training: loss {loss}; held out: {held_out}", line["step"], self.steps)

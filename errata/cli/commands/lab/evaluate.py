"""``errata evaluate``: edit a model with facts, without the service, and measure what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    Source,
    bar,
    core_errors,
    read_model_facts,
)


def register(app: typer.Typer) -> None:
    """Add ``evaluate``."""
    app.command()(evaluate)


def evaluate(
    facts: Annotated[Path, typer.Option(help=f"Facts: {FORMATS}.")],
    columns: Columns = None,
    skip_invalid: SkipInvalid = False,
    model: Source = None,
    revision: Revision = None,
    editor: Annotated[
        Path | None,
        typer.Option(help="Editor file, or malmen-paper. [default: the shipped one, or calibrate]"),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="ft, mend, memit, malmen-plain or training-free, in the editor's place."),
    ] = None,
    settings: Annotated[str, typer.Option(help="Settings of the baseline, as a JSON object.")] = "{}",
    limit: Annotated[int | None, typer.Option(min=1, help="How many facts, drawn at random.")] = None,
    seed: Annotated[int, typer.Option(help="Of that draw.")] = 0,
    sets: Annotated[
        int, typer.Option(min=1, help="Edit in this many sets, one after the other, each computed alone.")
    ] = 1,
    singles: Annotated[bool, typer.Option("--singles", help="Edit each fact alone on the base.")] = False,
    over: Annotated[str | None, typer.Option(help="Numbers of facts, such as 1,32,512: a row each.")] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Picture of the rows; a table without matplotlib.")
    ] = None,
    per_fact: Annotated[
        Path | None, typer.Option(help="Where each fact's result goes, as JSON lines.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    memory_budget: MemoryBudget = None,
    as_json: Json = False,
) -> None:
    """Edit a model with all facts at once and measure success, generalisation, locality and perplexity."""
    from errata.lab import evaluation, plots

    with reporting(as_json), bar(as_json) as show:
        _check(sets, singles, over, limit, plot_file)
        check_writable(per_fact, "--per-fact")
        check_writable(plot_file, "--plot")
        sizes: list[int | None] = [*evaluation.parse_sizes(over, "--over")] if over else [limit]
        records = read_model_facts(facts, model, revision, columns, skip_invalid)
        rows, lines = [], []
        with core_errors():
            bench = evaluation.set_up(
                evaluation.Choice(
                    model,
                    revision,
                    editor,
                    baseline,
                    _settings(settings, baseline, editor),
                    device,
                    dtype,
                    memory_budget,
                ),
                show,
            )
            for size in sizes:
                chosen = evaluation.choose_facts(records, size, seed, str(facts))
                row, found = evaluation.measure(bench, chosen, sets=sets, singles=singles, show=show)
                rows.append(row)
                lines.append(evaluation.per_fact_lines(chosen, found, {"n": row["n"]} if over else {}))
        if per_fact is not None:
            per_fact.write_text("".join(lines), encoding="utf-8")
        about: dict[str, Any] = {
            "editor": bench.method.name,
            "settings": dict(bench.method.settings),
            "modules": list(bench.base.info.modules),
            "model": bench.base.info.title,
            "dtype": str(bench.base.dtype).removeprefix("torch."),
            "device": bench.base.device.type,
            "facts": {"file": facts.name, "holds": len(records), "seed": seed},
        }
        title = f"{facts.name}: {baseline or 'this editor'}"
        drawn = plots.over_n(rows, title, plot_file) if plot_file else None
    if as_json:
        emit({**about, "rows": rows} if over else {**rows[0], **about})
        return
    out.print(evaluation.markdown(rows), end="", markup=False, soft_wrap=True)
    if drawn is not None:
        out.print(f"{drawn} shows it.", soft_wrap=True)


def _check(sets: int, singles: bool, over: str | None, limit: int | None, plot_file: Path | None) -> None:
    if singles and sets > 1:
        raise StackError("--singles and --sets exclude each other.", "Give one of them.")
    if over is not None and limit is not None:
        raise StackError("--over and --limit exclude each other.", "Give the numbers of facts with --over.")
    if plot_file is not None and over is None:
        raise StackError("--plot needs several rows.", "Give --over 1,32,512 too.")


def _settings(text: str, baseline: str | None, editor: Path | None) -> dict[str, Any]:
    """A baseline's settings from the command line.

    Raises:
        InputFileError: The text is not a JSON object, or there is no baseline, or one with an editor.
    """
    found = json_object(text, "--settings", '{"step": 0.001}')
    if found and baseline is None:
        raise InputFileError("--settings is for a baseline.", "Name one with --baseline.")
    if found and editor is not None:
        raise InputFileError("--settings is not for a trained baseline.", "Leave out it or --editor.")
    return found

"""``errata calibrate``: make an editor for a model without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import emit, out, reporting
from errata.cli.options import Json, check_writable
from errata.client.facts_file import json_object, prompts_of, read_facts
from errata.client.names import module_names
from errata.lab.local_model import (
    Device,
    Dtype,
    MemoryBudget,
    Revision,
    Source,
    bar,
    core_errors,
    labels_of,
    load_base,
)


def register(app: typer.Typer) -> None:
    """Add ``calibrate``."""
    app.command()(calibrate)


def calibrate(
    out_file: Annotated[Path, typer.Option("--out", help="Where the editor is written (safetensors).")],
    model: Source = None,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    modules: Annotated[
        str | None, typer.Option(help="Names of the edited modules, with commas. [default: the family's]")
    ] = None,
    plan: Annotated[
        str, typer.Option(help="Members of the edit plan, as a JSON object; the others have their defaults.")
    ] = "{}",
    preserve: Annotated[
        Path | None,
        typer.Option(help="Facts whose prompts are of the model's own field: the prior holds them."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the text that the model writes itself.")] = 0,
    memory_budget: MemoryBudget = None,
    as_json: Json = False,
) -> None:
    """Measure a model and write an untrained editor for it; a minute or so for a small model."""
    from malmen_core.editing import calibrate as core
    from malmen_core.editing.editor import EditPlan

    with reporting(as_json), bar(as_json) as show:
        check_writable(out_file, "--out")
        with core_errors():
            chosen = EditPlan.of(json_object(plan, "--plan", '{"where": "answer"}'))
        texts = prompts_of(read_facts(preserve, labels_of(model, revision))) if preserve else []
        base = load_base(model, revision, device, dtype, module_names(modules), memory_budget)
        with core_errors():
            editor = core.calibrate(base, show, plan=chosen, seed=seed, texts=texts)
            editor.save(out_file)
    if as_json:
        emit({"editor": str(out_file), "digest": editor.digest, "card": dict(editor.card)})
    else:
        out.print(f"{out_file} ({editor.digest}) edits {base.info.source}.", soft_wrap=True)

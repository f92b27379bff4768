"""``errata calibrate``: make an editor for a model without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.console import emit, out, reporting
from errata.local_model import Device, Dtype, Revision, Source, bar, core_errors, load_base
from errata.options import Json


def register(app: typer.Typer) -> None:
    """Add ``calibrate``."""
    app.command()(calibrate)


def calibrate(
    out_file: Annotated[Path, typer.Option("--out", help="Where the editor is written (safetensors).")],
    model: Source = None,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    seed: Annotated[int, typer.Option(help="Of the text that the model writes itself.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure a model and write an untrained editor for it; a minute or so for a small model."""
    from malmen_core import calibrate as core

    with reporting(as_json), bar(as_json) as show:
        base = load_base(model, revision, device, dtype)
        with core_errors():
            editor = core.calibrate(base, show, seed=seed)
            editor.save(out_file)
    if as_json:
        emit({"editor": str(out_file), "digest": editor.digest, "card": dict(editor.card)})
    else:
        out.print(f"{out_file} ({editor.digest}) edits {base.info.source}.", soft_wrap=True)

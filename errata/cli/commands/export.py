"""``errata export``: a version as files that other programs load."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import emit, err, out, reporting, saying
from errata.cli.options import Json, Model
from errata.lab.local_model import core_errors
from errata.offline.direct_ledger import chosen_model, own_ledger
from ledger.versions import versions


class Format(Enum):
    """What is written."""

    hf = "hf"
    peft = "peft"


def register(app: typer.Typer) -> None:
    """Add ``export``."""
    app.command()(export)


def export(
    version: Annotated[str, typer.Argument(help="Number, alias or `base`.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Not there yet, or empty.")],
    form: Annotated[
        Format, typer.Option("--format", help="A whole checkpoint (hf), or a LoRA adapter (peft).")
    ] = Format.hf,
    dtype: Annotated[
        str | None, typer.Option(help="Of a checkpoint: float32, bfloat16, …", show_default="the base files'")
    ] = None,
    probes: Annotated[int, typer.Option(min=0, help="Most facts that are asked of what was written.")] = 64,
    largest_rank: Annotated[
        int, typer.Option("--max-rank", min=1, help="Of an adapter; vLLM serves 512.")
    ] = 512,
    truncation: Annotated[
        float, typer.Option(min=0, help="Relative error by which an adapter may be cut to a lower rank.")
    ] = 1e-3,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Relative error of the answers' logits.", show_default="by dtype"),
    ] = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Write a version, load it again, and compare its answers; nothing is left behind if they differ."""
    with reporting(as_json), saying(as_json) as say, own_ledger(say) as ledger:
        from errata.offline.export import Wanted
        from errata.offline.export import export as write

        chosen = chosen_model(ledger, model)
        record = ledger.run(versions.get, chosen.id, version)
        wanted = Wanted(form.value, dtype, probes, largest_rank, truncation, tolerance)
        with core_errors():
            result = write(ledger, chosen, record, folder, wanted, say)
    if as_json:
        emit(result)
        return
    compared = result["probes"]
    out.print(f"Version {record.number} of {chosen.id} is in {result['folder']}.", soft_wrap=True)
    canaries = compared["sequences"] - compared["facts"]
    out.print(
        f"Loaded with {result['loaded_with']} and asked {compared['facts']} of {compared['of']} facts and "
        f"{canaries} canaries: logits differ by {compared['error']:.1e} at most "
        f"({compared['tolerance']:.0e} is allowed), and {compared['argmax_changed']} of "
        f"{compared['tokens']} first choices.",
        soft_wrap=True,
    )
    if not result["served_weights_are_those_recorded"]:
        err.print("Computed here, the weights are not to the last bit those recorded on another machine.")

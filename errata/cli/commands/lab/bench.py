"""``errata bench``: how fast edits are, beside a straightforward implementation of the paper."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from errata.cli.console import emit, out, reporting
from errata.cli.options import Json
from errata.errors import StackError
from errata.lab.edit_bench import KINDS, Job, check, row
from errata.lab.local_model import Device, Dtype, Revision, Source, bar, core_errors, find_source

TIMEOUT_S = 6 * 3600.0
COLUMNS = (
    ("n", "n"),
    ("facts_per_s", "facts/s"),
    ("baseline_facts_per_s", "straightforward"),
    ("speedup", "speedup"),
    ("peak_mb", "peak MB"),
    ("baseline_peak_mb", "straightforward"),
)


def register(app: typer.Typer) -> None:
    """Add ``bench``."""
    group = typer.Typer(no_args_is_help=True, help="Measure speed and memory.")
    group.callback()(_bench)
    group.command()(edit)
    app.add_typer(group, name="bench")


def _bench() -> None:
    """Measure speed and memory."""


def edit(
    model: Source = None,
    revision: Revision = None,
    editor: Annotated[
        Path | None, typer.Option(help="Editor file. [default: the shipped one, or calibrate]")
    ] = None,
    facts: Annotated[
        Path | None, typer.Option(help="Facts in a known format. [default: made-up ones]")
    ] = None,
    sizes: Annotated[str, typer.Option(help="Numbers of facts that are edited at once.")] = "1,32,512,4096",
    repeats: Annotated[int, typer.Option(min=1, help="Timed edits of each kind; the median counts.")] = 5,
    seconds: Annotated[float, typer.Option(min=0, help="Begin no further edit of a kind then.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the facts' draw.")] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Facts/s and peak memory: the paper's single shot by this code and by an ordinary one; as shipped."""
    from errata.lab.evaluation import parse_sizes, usable_editor

    with reporting(as_json), bar(as_json) as show, tempfile.TemporaryDirectory() as folder:
        counts = parse_sizes(sizes, "--sizes")
        where = str(facts.resolve()) if facts else None
        with core_errors():
            source, revision = find_source(model, revision)
            check(source, revision, editor, where, max(counts))
            found = usable_editor(editor, source, revision, device, dtype, show)
            file = Path(folder) / "editor.safetensors"
            found.save(file)
        rows: list[dict[str, Any]] = []
        for done, n in enumerate(counts):
            show("measuring", done, len(counts))
            jobs = {
                kind: Job(kind, n, source, revision, str(file), where, seed, repeats, seconds, device, dtype)
                for kind in KINDS
            }
            try:
                rows.append(row(jobs, TIMEOUT_S))
            except StackError as error:  # hours may lie behind the rows that are done
                error.details += tuple(f"done: {json.dumps(each)}" for each in rows)
                raise
    document: dict[str, Any] = {
        "device": rows[0]["device"],
        "dtype": rows[0]["dtype"],
        "model": source,
        "editor": found.digest,
        "modules": list(found.modules),
        "facts": facts.name if facts else "made up",
        "rows": [{name: value for name, value in r.items() if name not in ("device", "dtype")} for r in rows],
    }
    if as_json:
        emit(document)
    else:
        out.print(table(rows), end="", markup=False, soft_wrap=True)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a table in markdown."""
    lines = [[title for _, title in COLUMNS], ["---:"] * len(COLUMNS)]
    lines += [[str(each[name]) for name, _ in COLUMNS] for each in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

"""What ``errata bench edit`` measures: each figure in a process of its own, whose peak memory is its own.

``python -m errata.lab.edit_bench JOB`` is such a process: it takes a `Job` as JSON and prints a result as
JSON, or an error of ours.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from errata.cli.console import emit, reporting
from errata.errors import StackError
from errata.lab.local_model import core_errors
from errata.lab.memory import device_peak_mb, reset_device_peak
from errata.stack.processes import run_bound

if TYPE_CHECKING:
    from malmen_core.editing.editor import Editor
    from malmen_core.facts import Fact
    from malmen_core.models.base import BaseModel
    from malmen_core.models.overlay import Version

Kind = Literal["single-shot", "straightforward", "shipped"]
KINDS: tuple[Kind, ...] = ("single-shot", "straightforward", "shipped")
JUDGED = 256


@dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        kind: The paper's edit by this project's code, or by the straightforward one; or the edit as shipped.
        n: Facts that are edited at once.
        source: Folder or hub id of the model.
        revision: Of a hub id.
        editor: File of the editor.
        facts: File of facts; None for made-up ones.
        seed: Of their draw.
        repeats: Timed edits at most; the median counts.
        seconds: No further edit is begun after this long; one is always made.
        device: auto, cpu, cuda, …
        dtype: auto, float32, bfloat16, …
    """

    kind: Kind
    n: int
    source: str
    revision: str | None
    editor: str
    facts: str | None
    seed: int
    repeats: int
    seconds: float
    device: str
    dtype: str


def row(jobs: Mapping[Kind, Job], timeout_s: float) -> dict[str, Any]:
    """One row as API.md has it, and more: each job in a process of its own.

    Raises:
        StackError: One of them failed.
    """
    done = {kind: _spawn(job, timeout_s) for kind, job in jobs.items()}
    own, other = done["single-shot"], done["straightforward"]
    return {
        "n": own["n"],
        "facts_per_s": own["facts_per_s"],
        "peak_mb": own["peak_mb"],
        "baseline_facts_per_s": other["facts_per_s"],
        "baseline_peak_mb": other["peak_mb"],
        "speedup": round(own["facts_per_s"] / other["facts_per_s"], 2),
        "edits_timed": own["edits_timed"],
        "quality": own["quality"],
        "baseline_quality": other["quality"],
        "shipped": {name: value for name, value in done["shipped"].items() if name in SHIPPED},
        "device": own["device"],
        "dtype": own["dtype"],
    }


SHIPPED = ("facts_per_s", "peak_mb", "edits_timed", "quality")


def _spawn(job: Job, timeout_s: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "errata.lab.edit_bench", json.dumps(asdict(job))]
    try:
        done = run_bound(command, threading.Event(), timeout_s)
    except TimeoutError as error:
        raise StackError(
            f"Editing {job.n} facts ({job.kind}) took more than {timeout_s:g} s.", "Give fewer --sizes."
        ) from error
    lines = done.output.strip().splitlines()
    if done.exit_code != 0:
        raise _failure(job, lines)
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def _failure(job: Job, lines: Sequence[str]) -> StackError:
    """What a measurement said of its failure; if it said nothing, the end of its output."""
    about = f"Editing {job.n} facts ({job.kind}) failed"
    try:
        told = json.loads(lines[-1])["error"]
    except (IndexError, ValueError, KeyError, TypeError):
        return StackError(f"{about}.", "", tuple(lines[-8:]))
    error = StackError(f"{about}: {told['message']}", told["remedy"], tuple(told["details"]))
    error.code = told["code"]
    return error


def check(source: str, revision: str | None, editor: Path | None, facts: str | None, largest: int) -> None:
    """Find before the first measurement what a later one would fail for.

    Raises:
        StackError: The model is no causal language model, or there are fewer facts than the largest size.
        CoreError: The model cannot be read, or the editor does not fit.
    """
    from malmen_core.editing.editor import Editor
    from malmen_core.models.base import inspect_source
    from malmen_core.models.families import family_of
    from malmen_core.models.tasks.causal import CausalLM

    info = inspect_source(source, revision)
    if family_of(info.architecture).task is not CausalLM:
        raise StackError(
            f"{info.title!r} is of type {info.architecture!r}: only causal language models are measured.",
            "Name one with --model.",
        )
    if editor is not None:
        given = Editor.load(editor)
        given.check_fits(replace(info, modules=given.modules))
    fact_pool(facts, largest)


def run(job: Job) -> dict[str, Any]:
    """Make the measurement of a job in this process."""
    import torch

    from malmen_core.editing.editor import Editor
    from malmen_core.models.base import BaseModel

    editor = Editor.load(job.editor)
    base = BaseModel.load(
        job.source, revision=job.revision, modules=editor.modules, device=job.device, dtype=job.dtype
    )
    editor.check_fits(base.info)
    editor = _as_planned(editor, job.kind)
    groups = _groups(job)
    on_gpu = base.device.type == "cuda"
    reset_device_peak(base.device)
    with tempfile.TemporaryDirectory() as folder:
        edit = _editing(job.kind, base, editor, Path(folder))
        edit(groups[-1][: min(job.n, 2)])  # libraries and factors warm up
        times: list[float] = []
        while len(times) < job.repeats and (not times or sum(times) < job.seconds):
            facts = groups[len(times)]
            began = time.perf_counter()
            version = edit(facts)
            if on_gpu:
                torch.cuda.synchronize(base.device)
            times.append(time.perf_counter() - began)
    return {
        "n": job.n,
        "facts_per_s": round(job.n / statistics.median(times), 3),
        "peak_mb": device_peak_mb(base.device),
        "edits_timed": len(times),
        "quality": _quality(base, version, facts[:JUDGED]),
        "device": base.device.type,
        "dtype": str(base.dtype).removeprefix("torch."),
    }


def _as_planned(editor: Editor, kind: Kind) -> Editor:
    """The editor with the paper's plan (but its own key positions), or as it is."""
    from malmen_core.editing.editor import PAPER

    return editor if kind == "shipped" else replace(editor, plan=replace(PAPER, where=editor.plan.where))


def _editing(
    kind: Kind, base: BaseModel, editor: Editor, folder: Path
) -> Callable[[Sequence[Fact]], Version | Mapping[str, Any]]:
    """From facts to new weights that can be run."""
    from errata.lab.reference import straightforward_shifts
    from malmen_core.evaluation.methods import EditorMethod

    def own(facts: Sequence[Fact]) -> Version:
        return base.version(EditorMethod(editor).edit(base, [facts]))

    def straightforward(facts: Sequence[Fact]) -> Mapping[str, Any]:
        shifts = straightforward_shifts(base, editor.network, facts, editor.plan.where, folder)
        return {name: base.modules[name].weight_UV + shift.to(base.dtype) for name, shift in shifts.items()}

    return straightforward if kind == "straightforward" else own


def _quality(
    base: BaseModel, version: Version | Mapping[str, Any], facts: Sequence[Fact]
) -> dict[str, float | None]:
    """The measures of the last edit, on its first facts."""
    from malmen_core.evaluation.evaluate import MEASURES
    from malmen_core.evaluation.verify import record_canaries, verify
    from malmen_core.models.overlay import Version

    if not isinstance(version, Version):
        version = Version(version, "", "")
    summary = verify(base, version, facts, record_canaries(base)).summary
    return {name: summary[name] for name in MEASURES}


def _groups(job: Job) -> list[list[Fact]]:
    """Facts for each repeat: others each time, as far as there are."""
    pool = fact_pool(job.facts, job.n)
    random.Random(job.seed).shuffle(pool)
    endless = cycle(pool)
    return [list(islice(endless, job.n)) for _ in range(job.repeats)]


def fact_pool(file: str | None, wanted: int) -> list[Fact]:
    """The facts of a file, or made-up ones.

    Raises:
        StackError: The file cannot be used, or there are fewer than are wanted.
    """
    from errata.client.facts_file import read_facts
    from malmen_core.facts import Fact

    records = None if file is None else read_facts(Path(file))
    pool = made_up_facts() if records is None else [Fact.from_json(record) for record in records]
    if wanted > len(pool):
        raise StackError(
            f"There are {len(pool)} facts, not {wanted}.", "Give --facts with more, or smaller --sizes."
        )
    return pool


def made_up_facts() -> list[Fact]:
    """Thousands of made-up corrections about the packaged named entities, with a locality prompt each."""
    from malmen_core.facts import Fact, LocalityPrompt
    from malmen_core.resources import entity_kinds

    facts = []
    for kind in entity_kinds().values():
        names = kind.names
        templates = [template for template in kind.templates if not template.rstrip().endswith("?")]
        for number, (template, name) in enumerate(product(templates, names)):
            target, other = names[-1 - number % len(names)], names[(number + 7) % len(names)]
            probe = LocalityPrompt(template.format(other))
            facts.append(Fact(template.format(name), target, name, locality=(probe,)))
    return facts


if __name__ == "__main__":
    with reporting(as_json=True), core_errors():
        emit(run(Job(**json.loads(sys.argv[1]))))

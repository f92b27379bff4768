"""What ``errata evaluate`` measures and shows: methods by name, rows of results, tables and plots."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from errata.errors import InputFileError, StackError
from errata.lab.local_model import Show, find_source, load_base
from errata.lab.memory import peak_mb, reset_peak
from errata.lab.plots import cell
from errata.stack import default_model
from malmen_core.resources import editor_file

if TYPE_CHECKING:
    from malmen_core.editing.editor import Editor
    from malmen_core.evaluation.methods import Method
    from malmen_core.evaluation.verify import CanaryRecord
    from malmen_core.facts import Fact
    from malmen_core.models.base import BaseModel

COLUMNS = (
    ("n", "n"),
    ("edit_success", "ES"),
    ("generation_success", "gen. success"),
    ("exact_success", "exact"),
    ("chat_success", "chat"),
    ("generalisation", "GS"),
    ("own_agreement", "own agreement"),
    ("locality", "LS"),
    ("neighbours_unchanged", "unchanged"),
    ("perplexity_ratio", "ppl ratio"),
)


@dataclass(frozen=True)
class Choice:
    """Which model is edited, and by what.

    Attributes:
        model: Registered id, hub id or folder; None for the default model.
        revision: Of a hub id.
        editor: File of an editor, or the name of a packaged one; None for the one that is shipped for the model, or
            else a calibrated one.
        baseline: Name of a baseline in place of the editor.
        settings: Of the baseline, which a trained one has none of.
        device: auto, cpu, cuda, …
        dtype: auto, float32, bfloat16, …
        memory_budget: Bytes beside the model, such as 4GB; None for no bound.
    """

    model: str | None
    revision: str | None
    editor: Path | None
    baseline: str | None
    settings: Mapping[str, Any]
    device: str
    dtype: str
    memory_budget: str | None = None


@dataclass(frozen=True)
class Bench:
    """A loaded model with a method that is ready, and its canaries."""

    base: BaseModel
    method: Method
    canaries: CanaryRecord


def set_up(choice: Choice, show: Show) -> Bench:
    """Load the model with the modules that the method edits, and get both ready.

    Raises:
        StackError: The model cannot be loaded.
        CoreError: The editor does not fit, or is not the baseline's, or there is no such baseline.
    """
    from malmen_core.baselines.registry import baseline, modules_for, trained
    from malmen_core.editing.calibrate import calibrate
    from malmen_core.editing.editor import Editor
    from malmen_core.evaluation.methods import EditorMethod
    from malmen_core.evaluation.verify import record_canaries

    source, revision = find_source(choice.model, choice.revision)
    editor = Editor.load(editor_file(choice.editor)) if choice.editor is not None else None
    method: Method
    if choice.baseline is not None:
        chosen = baseline(choice.baseline, choice.settings)
        modules = modules_for(chosen, source, revision) if editor is None else editor.modules
        base = load_base(source, revision, choice.device, choice.dtype, modules, choice.memory_budget)
        method = chosen.prepare(base, show) if editor is None else trained(chosen, editor, base)
    else:
        editor = editor or _shipped(source, revision)
        known = editor.modules if editor is not None else None
        base = load_base(source, revision, choice.device, choice.dtype, known, choice.memory_budget)
        editor = editor or calibrate(base, show)
        editor.check_fits(base.info)
        method = EditorMethod(editor)
    return Bench(base, method, record_canaries(base))


def _shipped(source: str, revision: str | None) -> Editor | None:
    """The shipped editor, if the model is the one that it was made for."""
    from malmen_core.editing.editor import Editor
    from malmen_core.models.base import inspect_source

    editor = Editor.load(default_model.EDITOR)
    return editor if editor.base_digest == inspect_source(source, revision).digest else None


def usable_editor(
    file: Path | None, source: str, revision: str | None, device: str, dtype: str, show: Show
) -> Editor:
    """The editor of a file, else the one that is shipped for the model, else one that is calibrated now.

    Raises:
        CoreError: The file is no editor, or the model cannot be loaded.
    """
    from malmen_core.editing.calibrate import calibrate
    from malmen_core.editing.editor import Editor

    editor = Editor.load(editor_file(file)) if file is not None else _shipped(source, revision)
    return editor or calibrate(load_base(source, revision, device, dtype), show)


def parse_sizes(text: str, option: str) -> list[int]:
    """Numbers of facts from the command line.

    Raises:
        StackError: One is not a positive whole number.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise StackError(f"{option} {text} is not a list of numbers.", f"Write {option} 1,32,512.")
    return [int(part) for part in parts]


def choose_facts(records: Sequence[dict[str, Any]], limit: int | None, seed: int, name: str) -> list[Fact]:
    """A sample of a file's facts; see `malmen_core.evaluation.evaluate.sample`.

    Raises:
        InputFileError: There are fewer.
    """
    from malmen_core.evaluation.evaluate import sample
    from malmen_core.facts import Fact

    if limit is not None and limit > len(records):
        raise InputFileError(
            f"{name} holds {len(records)} facts, not {limit}.", "Ask for fewer, or give a larger file."
        )
    return [Fact.from_json(record) for record in sample(records, limit, seed)]


def measure(
    bench: Bench, facts: Sequence[Fact], *, sets: int, singles: bool, show: Show
) -> tuple[dict[str, Any], tuple[Mapping[str, Any], ...]]:
    """One row of results, as API.md has it and more, and one object a fact.

    Raises:
        CoreError: The facts cannot be edited.
    """
    from malmen_core.evaluation.evaluate import MEASURES, evaluate, evaluate_singles, split

    pid = os.getpid()
    reset_peak(pid)
    if singles:
        found = evaluate_singles(bench.base, bench.method, facts, bench.canaries, show)
    else:
        found = evaluate(bench.base, bench.method, split(facts, sets), bench.canaries, show)
    row: dict[str, Any] = {
        "n": len(facts),
        **{name: found.summary[name] for name in MEASURES},
        "canary_agreement": found.summary["canary_agreement"],
        "locality_given_answers": found.given_answers,
        "seconds": {"edit": round(found.edit_seconds, 3), "verify": round(found.verify_seconds, 3)},
        "facts_per_s": round(len(facts) / found.edit_seconds, 3),
        "peak_rss_mb": peak_mb(pid),
    }
    if sets > 1:
        row["sets"] = {"count": sets, "edit_success": list(found.sets)}
    if singles:
        row["singles"] = True
    return row, found.facts


def per_fact_lines(
    facts: Sequence[Fact], found: Sequence[Mapping[str, Any]], about: Mapping[str, Any]
) -> str:
    """One JSON object a line: what all of them share, the fact, and what was measured for it."""
    lines = []
    for fact, measured in zip(facts, found, strict=True):
        own = {"prompt": fact.prompt, "target": fact.target, "subject": fact.subject}
        lines.append(json.dumps({**about, **own, **measured}, ensure_ascii=False) + "\n")
    return "".join(lines)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a table in markdown."""
    titles = [title for _, title in COLUMNS] + ["facts/s", "peak MB"]
    lines = [" | ".join(titles), " | ".join("---:" for _ in titles)]
    for row in rows:
        cells = [cell(row[name]) for name, _ in COLUMNS]
        cells += [f"{row['facts_per_s']:.1f}", f"{row['peak_rss_mb'] or 0:.0f}"]
        lines.append(" | ".join(cells))
    return "".join(f"| {line} |\n" for line in lines)

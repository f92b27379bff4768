"""Editors beside their rivals, on the same facts of the default model: one command, one JSON, one table.

    python -m benchmarks.rivals --facts FILE --sizes 1,32,256 --methods errata,malmen-plain,memit --out FILE.json

Each method is one `errata evaluate` over all sizes, in a process of its own. The methods: `errata` (the default
editor), each baseline, others by `--editor NAME=FILE` (a trained MEND: `--editor mend=FILE`), and `in-context`,
which edits nothing and puts the facts into the prompt. What is in the JSON already is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import in_context
from benchmarks.commands import run, spoken
from errata.client.facts_file import read_facts
from errata.lab.local_model import find_source
from malmen_core.baselines.registry import BASELINES

OURS = "errata"
IN_CONTEXT = "in-context"
COLUMNS = {
    "ES": "edit_success",
    "generation": "generation_success",
    "chat": "chat_success",
    "GS": "generalisation",
    "LS": "locality",
    "PPL": "perplexity_ratio",
    "canaries": "canary_agreement",
}


def command(
    method: str, facts: str, sizes: str, seed: int, editors: Mapping[str, str], settings: Mapping[str, Any]
) -> list[str]:
    """The words after `errata` that measure a method."""
    words = ["evaluate", "--facts", facts, "--over", sizes, "--seed", str(seed)]
    if method in BASELINES:
        words += ["--baseline", method]
    if method in editors:
        words += ["--editor", editors[method]]
    elif method in settings:
        words += ["--settings", json.dumps(settings[method])]
    return words


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a line for each number of facts and method."""
    titles = ["n", "method", *COLUMNS, "seconds"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    rows = [(row["n"], method, row) for method, each in found.items() for row in each["rows"]]
    for n, method, row in sorted(rows, key=lambda each: each[0]):
        measures = [row[name] for name in COLUMNS.values()]
        cells = [str(n), method, *("" if value is None else f"{value:.3f}" for value in measures)]
        lines.append("| " + " | ".join([*cells, f"{row['seconds']['edit']:.1f}"]) + " |")
    return "\n".join(lines)


def plot(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Bars of ES, GS and LS by method, a panel for each number of facts."""
    from matplotlib.figure import Figure

    shown = {title: COLUMNS[title] for title in ("ES", "GS", "LS")}
    rows = {(row["n"], method): row for method, each in found.items() for row in each["rows"]}
    sizes = sorted({n for n, _ in rows})
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, n in zip(panels, sizes, strict=True):
        methods = [method for method in found if (n, method) in rows]
        for i, (title, name) in enumerate(shown.items()):
            places = [place + (i - 1) * 0.26 for place in range(len(methods))]
            values = [rows[n, method][name] or 0 for method in methods]
            axes.barh(places, values, 0.24, label=title, hatch=("", "//", "..")[i], edgecolor="white")
        axes.set(title=f"{n} facts", xlim=(0, 1), yticks=range(len(methods)), yticklabels=methods)
        axes.invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(shown))
    figure.savefig(path)


def _measure(method: str, given: argparse.Namespace, editors: Mapping[str, str]) -> dict[str, Any]:
    """What the JSON holds of a method."""
    if method == IN_CONTEXT:
        source, _ = find_source(given.model, None)
        records = read_facts(Path(given.facts))
        sizes = [int(size) for size in given.sizes.split(",")]
        return {"rows": in_context.rows(source, records, sizes, given.seed)}
    typed = command(method, given.facts, given.sizes, given.seed, editors, given.settings)
    shown = {path: Path(path).name for path in (given.facts, *editors.values())}
    made = run([*typed, *(["--model", given.model] if given.model else [])])
    return {"command": spoken(typed, shown), **made}


def main(words: Sequence[str] | None = None) -> None:
    """Read the arguments, measure what is missing, write, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--facts", required=True, help="that no editor was trained on")
    parser.add_argument("--out", required=True, type=Path, help="JSON file, gone on with if it is there")
    parser.add_argument("--model", help="in place of the default model")
    parser.add_argument("--sizes", default="1,32,256,1024", help="numbers of facts")
    parser.add_argument("--methods", default=",".join((OURS, *BASELINES, IN_CONTEXT)), help="with commas")
    parser.add_argument("--editor", action="append", default=[], help="NAME=FILE of a trained editor")
    parser.add_argument("--settings", type=json.loads, default={}, help="of baselines, by name, as JSON")
    parser.add_argument("--seed", type=int, default=7, help="of the draw of facts")
    parser.add_argument("--plot", type=Path, help="picture of ES, GS and LS; needs the extra `plot`")
    given = parser.parse_args(words)
    editors: dict[str, str] = dict(each.split("=", 1) for each in given.editor)
    found: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    for method in given.methods.split(","):
        if method not in found:
            found[method] = _measure(method, given, editors)
            given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    if given.plot is not None:
        plot(found, given.plot)


if __name__ == "__main__":
    main()

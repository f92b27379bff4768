"""Editors beside their rivals, on the same facts of the default model: one command, one JSON, one table.

    python -m benchmarks.tune_baselines --model FOLDER --facts OTHERS --limit 32 > tuned.json
    python -m benchmarks.rivals --facts FILE --tuned tuned.json --sizes 1,32,256 --methods errata,ft --out FILE.json

Each method is one `errata evaluate` over all sizes, in a process of its own; one fact is the mean of 16 that are
edited alone. The methods: `errata` (the default editor), each baseline, others by `--editor NAME=FILE` (a trained
MEND: `--editor mend=FILE`), and `in-context`, which edits nothing and puts the facts into the prompt. What is in
the JSON already, by method and number of facts, is not made again.
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
SINGLES = 16
COLUMNS = {
    "ES": "edit_success",
    "generation": "generation_success",
    "chat": "chat_success",
    "GS": "generalisation",
    "LS": "locality",
    "PPL": "perplexity_ratio",
    "canaries": "canary_agreement",
}


def command(method: str, editors: Mapping[str, str], tuned: Mapping[str, Any]) -> list[str]:
    """The words after `errata` that measure a method, but for the facts."""
    words = ["evaluate"]
    if method in BASELINES:
        words += ["--baseline", method]
    if method in editors:
        words += ["--editor", editors[method]]
    elif method in tuned:
        words += ["--settings", json.dumps(tuned[method])]
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


def plot(found: Mapping[str, Mapping[str, Any]], sizes: Sequence[int], path: Path) -> None:
    """Bars of ES, GS and LS by method, a panel for each of some numbers of facts."""
    from matplotlib.figure import Figure

    shown = {title: COLUMNS[title] for title in ("ES", "GS", "LS")}
    rows = {(row["n"], method): row for method, each in found.items() for row in each["rows"]}
    figure = Figure(figsize=(9, 1.2 + 0.35 * len(found)), layout="constrained")
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, n in zip(panels, sizes, strict=True):
        for i, (title, name) in enumerate(shown.items()):
            places = [place + (i - 1) * 0.26 for place in range(len(found))]
            values = [rows.get((n, method), {}).get(name) or 0 for method in found]
            axes.barh(places, values, 0.24, label=title, hatch=("", "//", "..")[i], edgecolor="white")
        for place, method in enumerate(found):
            if (n, method) not in rows:
                axes.text(0.02, place, "not measured", va="center", fontsize="small")
        axes.set(title=f"{n} fact{'s' * (n > 1)}", xlim=(0, 1))
    panels[0].set(yticks=range(len(found)), yticklabels=list(found))
    panels[0].invert_yaxis()  # which all panels share
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(shown))
    figure.savefig(path)


def _add(method: str, given: argparse.Namespace, editors: Mapping[str, str], own: dict[str, Any]) -> None:
    """Measure the numbers of facts that a method's entry of the JSON lacks."""
    known = {row["n"] for row in own.setdefault("rows", [])}
    wanted = [n for n in map(int, given.sizes.split(",")) if n not in known]
    if method == IN_CONTEXT:
        if wanted:
            source, _ = find_source(given.model, None)
            own["rows"] += in_context.rows(source, read_facts(Path(given.facts)), wanted, given.seed, SINGLES)
        return
    words = [*command(method, editors, given.tuned), "--facts", given.facts, "--seed", str(given.seed)]
    shown = {path: Path(path).name for path in (given.facts, *editors.values())}
    model = ["--model", given.model] if given.model else []
    several = ",".join(str(n) for n in wanted if n > 1)
    parts = [["--singles", "--over", str(SINGLES)]] if 1 in wanted else []
    for part in [*parts, *([["--over", several]] if several else [])]:
        made = run([*words, *part, *model])
        rows = made.pop("rows")
        own |= {**made, "commands": [*own.get("commands", []), spoken([*words, *part], shown)]}
        own["rows"] += [_of_one(row) if row.get("singles") else row for row in rows]


def _best(files: Sequence[str]) -> dict[str, Any]:
    """The settings that tuning chose, by method."""
    tuned = [json.loads(Path(file).read_text())["methods"] for file in files]
    return {name: found["best"] for each in tuned for name, found in each.items()}


def _of_one(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of facts that were edited alone, by fact."""
    return {**row, "n": 1, "seconds": {part: value / row["n"] for part, value in row["seconds"].items()}}


def main(words: Sequence[str] | None = None) -> None:
    """Read the arguments, measure what is missing, write, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--facts", required=True, help="that no editor was trained on")
    parser.add_argument("--out", required=True, type=Path, help="JSON file, gone on with if it is there")
    parser.add_argument("--model", help="in place of the default model")
    parser.add_argument("--sizes", default="1,32,256,1024", help="numbers of facts")
    parser.add_argument("--methods", default=",".join((OURS, *BASELINES, IN_CONTEXT)), help="with commas")
    parser.add_argument("--editor", action="append", default=[], help="NAME=FILE of a trained editor")
    parser.add_argument(
        "--tuned",
        action="append",
        default=[],
        help="what `benchmarks.tune_baselines` printed; the last counts",
    )
    parser.add_argument("--seed", type=int, default=7, help="of the draw of facts")
    parser.add_argument(
        "--plot", type=Path, help="picture of ES, GS and LS at these numbers; needs the extra `plot`"
    )
    given = parser.parse_args(words)
    given.tuned = _best(given.tuned)
    editors: dict[str, str] = dict(each.split("=", 1) for each in given.editor)
    found: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    for method in given.methods.split(","):
        _add(method, given, editors, found.setdefault(method, {}))
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    if given.plot is not None:
        plot(found, list(map(int, given.sizes.split(","))), given.plot)


if __name__ == "__main__":
    main()

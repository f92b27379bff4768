"""The table of the default model: `python -m benchmarks.rows --counterfact FILE --questions FILE --out DIR`.

Each row is one `errata evaluate` in a process of its own, by the editor or by a baseline, and leaves one JSON
file with the command that made it, so that the table can be made over several days: what is there is not made
again. `--tuned` names what `benchmarks.tune_baselines` printed. Prints the table of all files that are there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import run, spoken
from benchmarks.tune_baselines import SCORED, harmonic_mean
from malmen_core.baselines.registry import BASELINES

OURS = "errata"
TITLES = ("row", "method", "ES", "generation", "GS", "LS", "PPL", "mean", "edit seconds")


@dataclass(frozen=True)
class Row:
    """What is edited, and what is wanted of it.

    Attributes:
        facts: which file.
        options: of `errata evaluate`.
        wanted: edit success, generation success, generalisation and locality at least, perplexity ratio at
            most.
    """

    facts: str
    options: tuple[str, ...]
    wanted: tuple[float, float, float, float, float]


ROWS: Mapping[str, Row] = {
    "counterfact-1000": Row("counterfact", ("--limit", "1000"), (0.99, 0.95, 0.35, 0.75, 1.05)),
    "counterfact-4000": Row("counterfact", ("--limit", "4000"), (0.97, 0.90, 0.25, 0.60, 1.10)),
    "questions-1000": Row("questions", ("--limit", "1000"), (0.99, 0.95, 0.88, 0.85, 1.05)),
    "counterfact-20x100": Row(
        "counterfact", ("--limit", "2000", "--sets", "20"), (0.98, 0.93, 0.30, 0.65, 1.08)
    ),
    "counterfact-singles": Row(
        "counterfact", ("--limit", "100", "--singles"), (0.99, 0.98, 0.40, 0.95, 1.01)
    ),
}


def command(
    row: Row, files: Mapping[str, str], method: str, tuned: Mapping[str, Any], seed: int
) -> list[str]:
    """The words after `errata` that make a row."""
    words = ["evaluate", "--facts", files[row.facts], *row.options, "--seed", str(seed)]
    if method != OURS:
        words += ["--baseline", method, "--settings", json.dumps(tuned.get(method, {}))]
    return words


def table(results: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """Markdown: rows in their order, with what is wanted; figures that fall short are in italics."""
    lines = ["| " + " | ".join(TITLES) + " |", "|" + "---|" * len(TITLES)]
    for name, row in ROWS.items():
        methods = [method for at, method in results if at == name]
        if methods:
            lines.append(_line([name, "wanted", *(f"{value:.2f}" for value in row.wanted), "", ""]))
        for method in sorted(methods, key=lambda method: (method != OURS, method)):
            lines.append(_line(["", method, *_figures(row, results[name, method], method == OURS)]))
    return "\n".join(lines)


def _figures(row: Row, found: Mapping[str, Any], judged: bool) -> list[str]:
    values = [found[name] for name in ("edit_success", "generation_success", "generalisation", "locality")]
    short = [value < wanted for value, wanted in zip(values, row.wanted, strict=False)]
    values.append(found["perplexity_ratio"])
    short.append(values[-1] > row.wanted[-1])
    shown = [
        f"*{value:.3f}*" if judged and fails else f"{value:.3f}"
        for value, fails in zip(values, short, strict=True)
    ]
    mean = harmonic_mean([found[name] for name in SCORED])
    return [*shown, f"{mean:.3f}", f"{found['seconds']['edit']:.0f}"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def read(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The results that are there, by row and method."""
    found = {}
    for file in sorted(folder.glob("*.json")):
        name, _, method = file.stem.partition(".")
        if name in ROWS and method:
            found[name, method] = json.loads(file.read_text())
    return found


def main() -> None:
    """Read the arguments, make what is missing, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--counterfact", required=True, help="in a format that `errata evaluate` reads")
    parser.add_argument("--questions", required=True, help="what `benchmarks.question_facts` printed")
    parser.add_argument("--out", required=True, type=Path, help="folder of the results")
    parser.add_argument("--model", help="in place of the default model")
    parser.add_argument("--rows", default=",".join(ROWS), help="some of them, with commas; empty for none")
    parser.add_argument("--methods", default=OURS, help=f"{OURS} or some of {', '.join(BASELINES)}")
    parser.add_argument("--tuned", type=Path, help="what `benchmarks.tune_baselines` printed")
    parser.add_argument("--seed", type=int, default=7, help="of the draw of facts")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    files = {"counterfact": given.counterfact, "questions": given.questions}
    tuned = {} if given.tuned is None else json.loads(given.tuned.read_text())["methods"]
    best = {name: found["best"] for name, found in tuned.items()}
    for name in filter(None, given.rows.split(",")):
        for method in given.methods.split(","):
            file = given.out / f"{name}.{method}.json"
            if not file.exists():
                words = command(ROWS[name], files, method, best, given.seed)
                typed = spoken(words, {path: Path(path).name for path in files.values()})
                made = run([*words, *(["--model", given.model] if given.model else [])])
                file.write_text(json.dumps({"command": typed, **made}, indent=1) + "\n")
    print(table(read(given.out)))


if __name__ == "__main__":
    main()

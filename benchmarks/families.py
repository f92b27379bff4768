"""Teaches a model, edits it and reports: `python -m benchmarks.families gpt2 --pararel DIR --out DIR`.

The model is made by `benchmarks.taught.make`, its editor by `errata calibrate`, and the figures by `errata
evaluate`: the commands that users have, each in a process of its own. What they edit, they have not been tuned
on: the plan was chosen with, and the prior is made from, facts about other subjects. `--part tuning` reports on
those instead, to choose a plan with.

Prints one JSON object, and with `--result FILE` writes it there: the measures, what the model knew before,
the plan, seconds, and each command.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import run, spoken
from benchmarks.taught.make import FIELD, PARTS, make
from benchmarks.taught.pupils import PUPILS

WANTED: Mapping[str, tuple[float, float, float]] = {
    "bert": (0.98, 0.90, 0.93),
    "gpt2": (0.98, 0.80, 0.85),
    "gptj": (0.98, 0.80, 0.85),
    "t5": (0.98, 0.80, 0.85),
}
MEASURES = ("edit_success", "generalisation", "locality")


PLAN: Mapping[str, Any] = {"neighbours": 0, "prior_weight": 1000.0, "prior_growth": 0.0}
"""No neighbours, whose names these models never read."""

OWN_PLANS: Mapping[str, Mapping[str, Any]] = {"t5": {"margin": 8.0}}
"""What was chosen for one of them alone, on its tuning facts."""


def plan_of(name: str) -> dict[str, Any]:
    """The members of a model's edit plan."""
    return {**PLAN, **OWN_PLANS.get(name, {})}


class Commands:
    """Runs `errata` commands, and keeps their words with paths relative to the folder of the model."""

    def __init__(self, out: Path) -> None:
        self.out, self.done = out, list[str]()

    def run(self, *words: str) -> dict[str, Any]:
        """What a command prints with ``--json``; see `commands.run`."""
        self.done.append(spoken(words, {f"{self.out}/": ""}))
        print(self.done[-1], file=sys.stderr, flush=True)
        return run(words)


def make_editor(commands: Commands, modules: str, plan: Mapping[str, Any]) -> Path:
    """Calibrate an editor with the model's field in its prior."""
    out = commands.out
    editor = out / "calibrated.safetensors"
    chosen = ["--modules", modules] if modules else []
    chosen += ["--plan", json.dumps(plan), "--preserve", str(out / f"{FIELD}.jsonl")]
    commands.run("calibrate", "--model", str(out / "model"), "--out", str(editor), *chosen)
    return editor


def measure(
    out: Path,
    modules: str,
    plan: Mapping[str, Any],
    *,
    part: str,
    sizes: Sequence[int],
    seed: int,
    baselines: Sequence[str],
) -> dict[str, Any]:
    """Edit the model in a folder with each number of facts, by the editor and by baselines."""
    commands = Commands(out)
    editor = make_editor(commands, modules, plan)
    shared = ["evaluate", "--model", str(out / "model"), "--facts", str(out / f"{part}.jsonl")]
    shared += ["--over", ",".join(map(str, sizes)), "--seed", str(seed)]
    found = commands.run(*shared, "--editor", str(editor), "--plot", str(out / f"{part}.png"))
    others = {name: commands.run(*shared, "--baseline", name)["rows"] for name in baselines}
    return {**found, "baselines": others, "commands": commands.done}


def verdict(name: str, row: Mapping[str, Any]) -> dict[str, bool]:
    """Whether each measure reaches what is wanted of the model."""
    return {m: row[m] >= wanted for m, wanted in zip(MEASURES, WANTED[name], strict=True)}


def main() -> None:
    """Read the arguments, make, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=sorted(PUPILS))
    parser.add_argument("--pararel", required=True, type=Path, help="folder with facts.jsonl, patterns.jsonl")
    parser.add_argument("--out", required=True, type=Path, help="folder of the model; it is made once")
    parser.add_argument("--weights", type=Path, help="folder of BERT's real weights [default: fetched]")
    parser.add_argument("--subjects", type=int, help="that are taught, in place of the model's own number")
    parser.add_argument("--epochs", type=int, help="likewise")
    parser.add_argument("--sizes", default="1024", help="numbers of facts that are edited at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--baselines", default="", help="such as mend,malmen-plain")
    parser.add_argument("--part", choices=PARTS, default="reported")
    parser.add_argument("--plan", type=json.loads, help="members of the edit plan [default: the model's]")
    parser.add_argument("--modules", default="", help="with commas [default: the family's]")
    parser.add_argument("--result", type=Path)
    given = parser.parse_args()
    began = time.perf_counter()
    card = make(
        given.name,
        given.pararel,
        given.out,
        seed=given.seed,
        subjects=given.subjects,
        epochs=given.epochs,
        weights=given.weights,
    )
    found = measure(
        given.out,
        given.modules,
        plan_of(given.name) if given.plan is None else given.plan,
        part=given.part,
        sizes=[int(size) for size in given.sizes.split(",")],
        seed=given.seed,
        baselines=[name for name in given.baselines.split(",") if name],
    )
    document = {
        "name": given.name,
        "part": given.part,
        "command": " ".join(["python -m benchmarks.families", *shown(sys.argv[1:])]),
        "taught": card,
        **found,
        "wanted": dict(zip(MEASURES, WANTED[given.name], strict=True)),
        "reached": verdict(given.name, found["rows"][-1]),
        "seconds_in_all": round(time.perf_counter() - began, 1),
    }
    text = json.dumps(document, indent=1) + "\n"
    if given.result is not None:
        given.result.write_text(text)
    print(text, end="")


def shown(words: Sequence[str]) -> list[str]:
    """Arguments without this machine's folders and files, which stand as what they are for."""
    theirs = ("--pararel", "--out", "--weights", "--result", "--plot")
    shown = []
    for before, word in zip(["", *words], words, strict=False):
        if before in theirs:
            word = before.removeprefix("--").upper()
        shown.append(f"'{word}'" if "{" in word else word)
    return shown


if __name__ == "__main__":
    main()

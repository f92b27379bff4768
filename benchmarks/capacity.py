"""MALMEN as published, trained, beside MEND: `python -m benchmarks.capacity gpt2 --pararel DIR --out DIR`.

The model is one of `benchmarks.taught`. A network in the paper's form is trained for it, and one of MEND, of the
same shape, for the same layers, on the same facts, for as many steps (`errata train --form paper`). Both then edit
facts that neither has seen, `n` at once, in several draws where there are few, and so does the default editor,
untrained. Each is scored by the product of edit success, generalisation and locality, averaged over the draws.
`times` says, for each `n` of MEND, with how many times as many facts another method still scores at least as high.
With `--kept 0.5`, half of the facts keep the answer that they have, as in MEND's and MALMEN's fact checking, where
the verdict that is written is drawn at random.

Prints one JSON object; `--result FILE` writes it, `--plot FILE` draws it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.families import MEASURES, Commands, make_editor, plan_of, shown
from benchmarks.taught.make import TRAINING, make
from benchmarks.taught.pupils import PUPILS
from malmen_core.training.checkpoint import RunFolder

FEW = 32
"""Up to so many facts, one draw says little."""
OURS, MEND = "errata", "mend"
TRAINED = ("malmen-plain", MEND)
Rows = list[dict[str, Any]]


def facts_of(out: Path, part: str, kept: float, seed: int) -> Path:
    """A part's file of facts, a share of which keep their answer."""
    if not kept:
        return out / f"{part}.jsonl"
    draw = random.Random(seed)
    records = [json.loads(line) for line in (out / f"{part}.jsonl").read_text("utf-8").splitlines()]
    for record in records:
        if draw.random() < kept:
            record["target"] = record["true_target"]
    path = out / f"{part}-kept.jsonl"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path


def train(commands: Commands, name: str, facts: Path, options: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """A trained baseline's file and what its training came to; what was begun is gone on with."""
    out = commands.out
    network, run = out / f"{name}.safetensors", RunFolder(out / name)
    words = ["train", "--form", "paper", "--baseline", name, "--model", str(out / "model")]
    words += ["--facts", str(facts), "--out", str(network), "--checkpoint", str(run.path), *options]
    made = commands.run(*words, *(["--resume"] if run.start_file.exists() else []))
    lines = run.metrics()
    ends = [now for now, then in zip(lines, [*lines[1:], None], strict=True) if _last(now, then)]
    return network, {
        "steps": made["card"]["steps"],
        "facts_seen": sum(line["facts"] for line in lines if line["kind"] == "step"),
        "seconds": round(sum(line["seconds"] for line in ends), 1),
        "validation": made["card"]["validation"],
    }


def _last(line: Mapping[str, Any], then: Mapping[str, Any] | None) -> bool:
    """Whether a line is the last of a process, each of which counts its seconds anew."""
    return then is None or then["seconds"] < line["seconds"]


def measure(commands: Commands, chosen: Sequence[str], facts: Path, sizes: Sequence[int], draws: int) -> Rows:
    """A row for each number of facts, of means over its draws."""
    few = [size for size in sizes if size <= FEW]
    drawn = [_evaluate(commands, chosen, facts, sizes, 0)]
    drawn += [_evaluate(commands, chosen, facts, few, seed) for seed in range(1, draws) if few]
    rows = []
    for size in sizes:
        own = [row for found in drawn for row in found if row["n"] == size]
        means = {name: sum(row[name] for row in own) / len(own) for name in MEASURES}
        rows.append({"n": size, "draws": len(own), **means, "product": math.prod(means.values())})
    return rows


def _evaluate(
    commands: Commands, chosen: Sequence[str], facts: Path, sizes: Sequence[int], seed: int
) -> Rows:
    words = ["evaluate", "--model", str(commands.out / "model"), *chosen]
    words += ["--facts", str(facts), "--seed", str(seed)]
    found: Rows = commands.run(*words, "--over", ",".join(map(str, sizes)))["rows"]
    return found


def times(own: Rows, other: Rows) -> list[dict[str, Any]]:
    """For each row of another method: the most facts that score at least as high, and their ratio.

    The method must score so at every smaller number that was measured, too; 0 where it does at none.
    """
    compared = []
    for row in other:
        borne = 0
        for mine in sorted(own, key=lambda each: int(each["n"])):
            if mine["product"] < row["product"]:
                break
            borne = mine["n"]
        compared.append({"n": row["n"], "product": row["product"], "borne": borne, "times": borne / row["n"]})
    return compared


def draw(rows: Mapping[str, Rows], title: str, path: Path) -> None:
    """The products over the number of facts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, own in rows.items():
        axes.plot([row["n"] for row in own], [row["product"] for row in own], marker="o", label=name)
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="facts edited at once", ylabel="ES × GS × LS", title=title)
    axes.legend()
    figure.savefig(path)


def main() -> None:
    """Read the arguments, make, train, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=sorted(PUPILS))
    parser.add_argument("--pararel", required=True, type=Path, help="folder with facts.jsonl, patterns.jsonl")
    parser.add_argument("--out", required=True, type=Path, help="folder of the model; it is made once")
    parser.add_argument("--weights", type=Path, help="folder of BERT's real weights [default: fetched]")
    parser.add_argument("--subjects", type=int, help="that are taught, in place of the model's own number")
    parser.add_argument("--epochs", type=int, help="likewise")
    parser.add_argument("--kept", type=float, default=0.0, help="share of the facts that keep their answer")
    parser.add_argument("--methods", default=f"{OURS},{','.join(TRAINED)}", help="with commas")
    parser.add_argument("--sizes", default="1,2,4,8,16,32,64,128,256,512,1024", help="of facts at once")
    parser.add_argument("--draws", type=int, default=8, help=f"of up to {FEW} facts")
    parser.add_argument("--steps", type=int, default=500, help="of training")
    parser.add_argument("--batch", type=int, default=512, help="most facts of such a step")
    parser.add_argument("--mend-batch", type=int, help="likewise, of MEND [default: the same]")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--locality-weight", type=float, default=1.0)
    parser.add_argument("--settings", type=json.loads, default={}, help="of both networks, as JSON")
    parser.add_argument("--seed", type=int, default=0, help="of the model")
    parser.add_argument("--result", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    card = make(
        given.name,
        given.pararel,
        given.out,
        seed=given.seed,
        subjects=given.subjects,
        epochs=given.epochs,
        weights=given.weights,
    )
    commands = Commands(given.out)
    learned, reported = (facts_of(given.out, part, given.kept, given.seed) for part in (TRAINING, "reported"))
    sizes = [int(size) for size in given.sizes.split(",")]
    rows, training = {}, {}
    for name in given.methods.split(","):
        if name == OURS:
            chosen = ["--editor", str(make_editor(commands, "", plan_of(given.name)))]
        else:
            batch = given.mend_batch if name == MEND and given.mend_batch else given.batch
            options = ["--settings", json.dumps(given.settings), "--steps", str(given.steps)]
            options += ["--batch", str(batch), "--validation-facts", str(batch)]
            options += ["--validate-every", "25", "--patience", "20"]
            options += ["--learning-rate", str(given.learning_rate)]
            options += ["--locality-weight", str(given.locality_weight)]
            network, training[name] = train(commands, name, learned, options)
            chosen = ["--baseline", name, "--editor", str(network)]
        rows[name] = measure(commands, chosen, reported, sizes, given.draws)
    document = {
        "name": given.name,
        "command": " ".join(["python -m benchmarks.capacity", *shown(sys.argv[1:])]),
        "taught": card,
        "training": training,
        "rows": rows,
        "times": {n: times(own, rows[MEND]) for n, own in rows.items() if n != MEND and MEND in rows},
        "commands": commands.done,
    }
    if given.plot is not None:
        draw(rows, f"{given.name}, taught", given.plot)
    text = json.dumps(document, indent=1) + "\n"
    if given.result is not None:
        given.result.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()

"""How many facts are borne beside MEND: `python -m benchmarks.capacity gpt2 --pararel DIR --out DIR`.

The model and its editor are those of `benchmarks.families`. MEND's network, of the same shape, is trained on
the tuning facts (`errata train --baseline mend`). Both then edit facts that neither has seen, `n` at once, in
several draws where there are few, and are scored by the product of edit success, generalisation and locality,
each averaged over the draws. `times` says, for each `n` of MEND, with how many times as many facts the editor
still scores at least as high.

Prints one JSON object; `--result FILE` writes it, `--plot FILE` draws it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.families import MEASURES, Commands, make_editor, plan_of, shown
from benchmarks.taught.make import make
from malmen_core.training.checkpoint import RunFolder

FEW = 32
"""Up to so many facts, one draw says little."""
Rows = list[dict[str, Any]]


def train_mend(commands: Commands, steps: int, batch: int, rate: float) -> Path:
    """MEND's network for the folder's model, trained on the tuning facts; what was begun is gone on with."""
    out = commands.out
    network, run = out / "mend.safetensors", RunFolder(out / "mend")
    words = ["train", "--baseline", "mend", "--model", str(out / "model")]
    words += ["--facts", str(out / "tuning.jsonl"), "--out", str(network), "--checkpoint", str(run.path)]
    words += ["--steps", str(steps), "--batch", str(batch), "--learning-rate", str(rate)]
    words += ["--validation-facts", str(batch)]  # as many at once as it learns to bear
    commands.run(*words, *(["--resume"] if run.start_file.exists() else []))
    return network


def measure(commands: Commands, chosen: Sequence[str], sizes: Sequence[int], draws: int) -> Rows:
    """A row for each number of facts, of means over its draws."""
    few = [size for size in sizes if size <= FEW]
    drawn = [_evaluate(commands, chosen, sizes, 0)]
    drawn += [_evaluate(commands, chosen, few, seed) for seed in range(1, draws) if few]
    rows = []
    for size in sizes:
        own = [row for found in drawn for row in found if row["n"] == size]
        means = {name: sum(row[name] for row in own) / len(own) for name in MEASURES}
        rows.append({"n": size, "draws": len(own), **means, "product": math.prod(means.values())})
    return rows


def _evaluate(commands: Commands, chosen: Sequence[str], sizes: Sequence[int], seed: int) -> Rows:
    words = ["evaluate", "--model", str(commands.out / "model"), *chosen]
    words += ["--facts", str(commands.out / "reported.jsonl"), "--seed", str(seed)]
    found: Rows = commands.run(*words, "--over", ",".join(map(str, sizes)))["rows"]
    return found


def times(own: Rows, other: Rows) -> list[dict[str, Any]]:
    """For each row of another method: the most facts that score at least as high, and their ratio.

    The editor must score so at every smaller number that was measured, too; 0 where it does at none.
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
    parser.add_argument("name", choices=("bert", "gpt2", "gptj"), help="a model that MEND edits")
    parser.add_argument("--pararel", required=True, type=Path, help="folder with facts.jsonl, patterns.jsonl")
    parser.add_argument("--out", required=True, type=Path, help="folder of the model; it is made once")
    parser.add_argument("--weights", type=Path, help="folder of BERT's real weights [default: fetched]")
    parser.add_argument("--sizes", default="1,2,4,8,16,32,64,128,256,512,1024", help="of facts at once")
    parser.add_argument("--draws", type=int, default=8, help=f"of up to {FEW} facts")
    parser.add_argument("--steps", type=int, default=2000, help="of MEND's training")
    parser.add_argument("--batch", type=int, default=16, help="most facts of such a step")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0, help="of the model")
    parser.add_argument("--result", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    card = make(given.name, given.pararel, given.out, seed=given.seed, weights=given.weights)
    commands = Commands(given.out)
    editors = {
        "errata": ["--editor", str(make_editor(commands, "", plan_of(given.name), 0))],
        "mend": [
            *("--baseline", "mend", "--editor"),
            str(train_mend(commands, given.steps, given.batch, given.learning_rate)),
        ],
    }
    sizes = [int(size) for size in given.sizes.split(",")]
    rows = {name: measure(commands, chosen, sizes, given.draws) for name, chosen in editors.items()}
    document = {
        "name": given.name,
        "command": " ".join(["python -m benchmarks.capacity", *shown(sys.argv[1:])]),
        "taught": card,
        "rows": rows,
        "times": times(rows["errata"], rows["mend"]),
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

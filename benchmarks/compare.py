"""Today's editor beside an older commit's, on the same facts, in turn, in one run.

    python -m benchmarks.compare --model FOLDER --counterfact FILE --rows examples,256 --out FILE.json

The older commit is checked out into a temporary folder and edits there with its own code and its own shipped editor.
What it leaves is a delta, which is measured here by today's measures: the same function measures both sides. Seconds
are those of editing alone, and of each side's own verification. A difference of harmonic means is given with its
standard error over facts, by bootstrap.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from malmen_core.evaluation.evaluate import sample
from malmen_core.evaluation.verify import record_canaries, summarise, verify
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta

ROOT = Path(__file__).resolve().parents[1]
OLD = "fb35a0f"
EXAMPLES = ROOT / "examples" / "facts.jsonl"
SEED = 21
RESAMPLES = 1000
ROWS = {"singles": 100, "examples": 36, "256": 256, "1000": 1000, "4000": 4000}
EDITS = """
import json, sys, time
from pathlib import Path
{imports}
model, editor, facts, out, one_by_one = sys.argv[1:6]
base, editor = BaseModel.load(model), Editor.load(editor)
facts = [Fact.from_json(json.loads(line)) for line in Path(facts).read_text().splitlines()]
sets = [[fact] for fact in facts] if one_by_one == "1" else [facts]
{ready}
edit_s, verify_s = [], []
for number, some in enumerate(sets):
    began = time.perf_counter()
    delta = {solve}
    edited = time.perf_counter()
    verify(base, base.version(delta), some, None)
    edit_s.append(edited - began)
    verify_s.append(time.perf_counter() - edited)
    Path(out, f"{{number}}.delta").write_bytes(delta.to_bytes())
import resource
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
Path(out, "seconds.json").write_text(json.dumps({{"edit": edit_s, "verify": verify_s, "peak_mb": peak}}))
"""
OLD_CODE = EDITS.format(
    imports="""from malmen_core.base import BaseModel
from malmen_core.edit import edit, solve
from malmen_core.editor import Editor
from malmen_core.facts import Fact
from malmen_core.verify import verify""",
    ready="assert editor.regularisers and base.draft",
    solve="solve(editor, edit(base, editor, some).statistics)",
)
NEW_CODE = EDITS.format(
    imports="""from malmen_core.editing.edit import edit, solve
from malmen_core.editing.editor import Editor
from malmen_core.evaluation.verify import verify
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel""",
    ready="base.continuing_X",
    solve="solve(base, editor, edit(base, editor, some).statistics)",
)


def run(code: str, tree: Path, model: Path, editor: Path, facts: Path, one_by_one: bool) -> dict[str, Any]:
    """Edit in a process of its own with a tree's code; its seconds, and its deltas as bytes."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-W", "ignore", "-c", code, str(model), str(editor), str(facts), out]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        subprocess.run([*command, str(int(one_by_one))], cwd=tree, env=environment, check=True)
        seconds = json.loads(Path(out, "seconds.json").read_text())
        count = len(seconds["edit"])
        return {**seconds, "deltas": [Path(out, f"{i}.delta").read_bytes() for i in range(count)]}


def measured(
    base: BaseModel, facts: Sequence[Fact], found: Mapping[str, Any], canaries: Any
) -> dict[str, Any]:
    """What a side's deltas come to, by today's measures."""
    sets = [facts] if len(found["deltas"]) == 1 else [[fact] for fact in facts]
    results: list[Mapping[str, Any]] = []
    ratios: list[float] = []
    for number, some in enumerate(sets):
        version = base.version(Delta.from_bytes(found["deltas"][number]))
        report = verify(base, version, some, canaries if number % 10 == 0 else None)
        results += report.facts
        if report.summary["perplexity_ratio"] is not None:
            ratios.append(report.summary["perplexity_ratio"])
    measures = {**summarise(results), "perplexity_ratio": fmean(ratios)}
    seconds = {f"{part}_seconds": median(found[part]) for part in ("edit", "verify")}
    mean = harmonic_mean(results)
    return {**measures, "harmonic_mean": mean, **seconds, "peak_mb": found["peak_mb"], "facts": results}


def harmonic_mean(results: Sequence[Mapping[str, Any]]) -> float:
    """Of edit success, generalisation and neighbours unchanged."""
    found = summarise(results)
    parts = [found[name] for name in ("edit_success", "generalisation", "neighbours_unchanged")]
    return 0.0 if not all(parts) else len(parts) / sum(1 / part for part in parts if part)


def standard_error(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> float:
    """Of the difference of the harmonic means, over facts drawn anew with both sides' results (paired)."""
    draw = random.Random(SEED)
    numbers = range(len(old))
    differences = []
    for _ in range(RESAMPLES):
        some = draw.choices(numbers, k=len(old))
        differences.append(harmonic_mean([new[i] for i in some]) - harmonic_mean([old[i] for i in some]))
    return stdev(differences)


def without_question(line: str) -> str:
    """A fact without what the older commit does not know."""
    return json.dumps({name: value for name, value in json.loads(line).items() if name != "question"})


def row(
    name: str, given: argparse.Namespace, old_tree: Path, base: BaseModel, canaries: Any
) -> dict[str, Any]:
    """Both sides on one row's facts."""
    source = EXAMPLES if name == "examples" else given.counterfact
    lines = [without_question(line) for line in sample(source.read_text().splitlines(), ROWS[name], SEED)]
    facts = [Fact.from_json(json.loads(line)) for line in lines]
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("\n".join(lines))
        file.flush()
        sides = {}
        if not given.only_new:
            shipped = old_tree / "errata" / "data" / given.editor.name
            sides["old"] = run(OLD_CODE, old_tree, given.model, shipped, Path(file.name), name == "singles")
        sides["new"] = run(NEW_CODE, ROOT, given.model, given.editor, Path(file.name), name == "singles")
    found = {side: measured(base, facts, each, canaries) for side, each in sides.items()}
    results = {side: each.pop("facts") for side, each in found.items()}
    if given.only_new:
        return {"row": name, "n": len(facts), **found}
    return {
        "row": name,
        "n": len(facts),
        **found,
        "difference": found["new"]["harmonic_mean"] - found["old"]["harmonic_mean"],
        "standard_error": standard_error(results["old"], results["new"]),
        "edit_seconds_ratio": found["new"]["edit_seconds"] / found["old"]["edit_seconds"],
        "verify_seconds_ratio": found["new"]["verify_seconds"] / found["old"]["verify_seconds"],
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a row and side."""
    columns: tuple[str, ...] = (
        "edit_success",
        "generation_success",
        "generalisation",
        "neighbours_unchanged",
        "locality",
    )
    columns += ("perplexity_ratio", "harmonic_mean", "edit_seconds", "verify_seconds")
    lines = ["| row | side | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for each in rows:
        for side in ("old", "new"):
            if side in each:
                values = " | ".join(f"{each[side][column]:.3f}" for column in columns)
                lines.append(f"| {each['row']} | {side} | {values} |")
    return "\n".join(lines)


def main() -> None:
    """Run the rows that are asked for; results are added to the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument(
        "--editor",
        type=Path,
        default=ROOT / "malmen_core/resources/editors/smollm2-135m-instruct.safetensors",
    )
    parser.add_argument("--counterfact", type=Path, help="facts as in the API, a JSON object a line")
    parser.add_argument("--rows", default="examples", help=f"some of {','.join(ROWS)}")
    parser.add_argument(
        "--only-new", action="store_true", help="leave the older commit out, or as it was in the file"
    )
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    base = BaseModel.load(str(given.model))
    canaries = record_canaries(base)
    rows = json.loads(given.out.read_text())["rows"] if given.out.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", OLD], cwd=ROOT, check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        for name in given.rows.split(","):
            found = row(name, given, Path(folder), base, canaries)
            before: dict[str, Any] = next((each for each in rows if each["row"] == name), {})
            if given.only_new and "old" in before:
                found = {**found, "old": before["old"], "sides": "of two runs"}
            rows = [each for each in rows if each["row"] != name] + [found]
            given.out.write_text(json.dumps({"old": OLD, "seed": SEED, "rows": rows}, indent=1) + "\n")
            print(table([found]), flush=True)


if __name__ == "__main__":
    main()

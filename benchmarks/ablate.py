"""What each part of the edit plan is worth: the default plan beside plans in which one member is another.

    python -m benchmarks.ablate --model FOLDER --editor FILE --counterfact FILE --out FILE.json

Each plan edits the same draws of facts. A difference from the default plan is one of harmonic means (edit success,
generalisation, neighbours unchanged) over the facts of all draws, with its standard error by paired bootstrap.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.compare import harmonic_mean, standard_error
from malmen_core.editing.edit import edit, solve
from malmen_core.editing.editor import Editor
from malmen_core.evaluation.evaluate import sample
from malmen_core.evaluation.verify import record_canaries, summarise, verify
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel

PLANS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "no neighbours preserved": {"neighbours": 0},
    "24 neighbours preserved": {"neighbours": 24},
    "no larger margin for few": {"lone_margin": 0.0},
    "steps of 0.25": {"step": 0.25},
    "noise 0.01": {"noise": 0.01},
    "damping 0.1": {"damping": 0.1},
    "prior of 10,000 tokens": {"prior_weight": 10000.0},
    "prior of 100,000 tokens": {"prior_weight": 100000.0},
    "5 rounds": {"rounds": 5},
}


def main() -> None:
    """Run each plan on each draw; the file is written after each plan."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--editor", type=Path, required=True)
    parser.add_argument("--counterfact", type=Path, required=True)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--plans", help="names, separated by semicolons")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    base, editor = BaseModel.load(str(given.model)), Editor.load(given.editor)
    canaries = record_canaries(base)
    lines = given.counterfact.read_text().splitlines()
    draws = [sample(lines, given.size, int(seed)) for seed in given.seeds.split(",")]
    chosen = PLANS if given.plans is None else {name: PLANS[name] for name in given.plans.split(";")}
    results: dict[str, list[Mapping[str, Any]]] = {}
    rows = []
    for name, members in chosen.items():
        tried = replace(editor, plan=replace(editor.plan, **members))
        results[name], ratios, seconds = [], [], 0.0
        for draw in draws:
            facts = [Fact.from_json(json.loads(line)) for line in draw]
            began = time.perf_counter()
            version = base.version(solve(base, tried, edit(base, tried, facts).statistics))
            seconds += time.perf_counter() - began
            report = verify(base, version, facts, canaries)
            results[name] += report.facts
            ratios.append(float(report.summary["perplexity_ratio"] or 0.0))
        found: dict[str, Any] = {
            "plan": name,
            "members": dict(members),
            **summarise(results[name]),
            "perplexity_ratio": fmean(ratios),
            "harmonic_mean": harmonic_mean(results[name]),
            "seconds": seconds,
        }
        if name != "default" and "default" in results:
            found["difference"] = harmonic_mean(results[name]) - harmonic_mean(results["default"])
            found["standard_error"] = standard_error(results["default"], results[name])
        rows.append(found)
        record = {"model": given.model.name, "size": given.size, "seeds": given.seeds, "rows": rows}
        given.out.write_text(json.dumps(record, indent=1) + "\n")
        print({key: round(v, 3) if isinstance(v, float) else v for key, v in found.items()}, flush=True)


if __name__ == "__main__":
    main()

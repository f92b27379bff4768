"""The same tuning effort for each method: `python -m benchmarks.tune_baselines --model FOLDER --facts FILE`.

Each method gets a grid of the same number of settings around its paper's own, tried on the same facts; the
one with the highest harmonic mean of edit success, generalisation and locality (where one of these is 0 in
all trials, with their highest sum) is its best. Prints one JSON object: the best settings by method, and
every trial. These facts should not be those that are reported on: `--seed` draws them, and reports use
another seed. With `--singles` each is edited alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from errata.client.facts_file import read_facts
from malmen_core.baselines.memit import Memit, MemitMethod
from malmen_core.baselines.registry import BASELINES, baseline, modules_for
from malmen_core.errors import NotFiniteError
from malmen_core.evaluation.evaluate import evaluate, evaluate_singles, sample
from malmen_core.evaluation.methods import Baseline, Method
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel

GRIDS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "ft": {"bound": (5e-3, 2e-2, 1e-1), "depth_share": (0.2, 0.44, 0.8)},
    "mend": {"step": (0.01, 0.1, 1.0), "last": (1, 3, 6)},
    "memit": {"prior_weight": (1500.0, 5000.0, 15000.0), "bound": (0.75, 2.0, 4.0)},
    "malmen-plain": {"step": (0.3, 1.0, 3.0), "above": (0, 2, 4)},
    "training-free": {"step": (2e-4, 6e-4, 2e-3), "ridge": (0.1, 1.0, 10.0)},
}


LONE_GRIDS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "mend": {"step": (0.3, 1.0, 3.0), "last": (1, 3, 6)},
    "malmen-plain": {"step": (1.0, 1.4, 1.8, 2.2, 2.6, 3.0, 4.0, 5.5, 8.0)},
    "training-free": {"step": (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2)},
}
"""Where a fact is edited alone: it takes longer steps, and ridges say nothing."""

SCORED = ("edit_success", "generalisation", "locality")


def harmonic_mean(values: Sequence[float | None]) -> float:
    """Of shares; 0 if one of them is, and unmeasured ones left out."""
    known = [value for value in values if value is not None]
    return len(known) / sum(1 / value for value in known) if known and all(known) else 0.0


def trials(name: str, *, singles: bool = False) -> list[dict[str, float]]:
    """All settings of a method's grid."""
    grid = {**GRIDS, **LONE_GRIDS}[name] if singles else GRIDS[name]
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


class Bench:
    """A base model with the modules of the last trial, and what that trial had prepared."""

    def __init__(self, source: str, device: str, dtype: str) -> None:
        self._source, self._device, self._dtype = source, device, dtype
        self._base: BaseModel | None = None
        self._method: Method | None = None

    def ready(self, chosen: Baseline) -> tuple[BaseModel, Method]:
        """The base and the method; MEMIT's covariance, of minutes, serves all settings."""
        modules = modules_for(chosen, self._source)
        if self._base is None or self._base.info.modules != modules:
            self._base = BaseModel.load(self._source, modules=modules, device=self._device, dtype=self._dtype)
            self._method = None
        if isinstance(chosen, Memit) and isinstance(self._method, MemitMethod):
            self._method = replace(self._method, plan=chosen)
        else:
            self._method = chosen.prepare(self._base)
        return self._base, self._method


def attempt(
    bench: Bench, name: str, settings: Mapping[str, float], facts: Sequence[Fact], *, singles: bool
) -> dict[str, Any]:
    """One trial: the measures with these settings, or that the edit overflowed."""
    base, method = bench.ready(baseline(name, settings))
    began = time.perf_counter()
    try:
        found = (
            evaluate_singles(base, method, facts, None) if singles else evaluate(base, method, [facts], None)
        )
    except NotFiniteError as error:
        return {"settings": dict(settings), "score": 0.0, "error": str(error)}
    shares = [found.summary[measure] for measure in SCORED]
    return {
        "settings": dict(settings),
        "score": round(harmonic_mean(shares), 4),
        **dict(zip(SCORED, shares, strict=True)),
        "generation_success": found.summary["generation_success"],
        "seconds": round(time.perf_counter() - began, 1),
    }


def tune(name: str, bench: Bench, facts: Sequence[Fact], *, singles: bool) -> dict[str, Any]:
    """Try a method's whole grid."""
    done = []
    for settings in trials(name, singles=singles):
        done.append(attempt(bench, name, settings, facts, singles=singles))
        print(json.dumps({"method": name, **done[-1]}), file=sys.stderr, flush=True)
    best = max(done, key=lambda trial: (trial["score"], sum(trial.get(name) or 0.0 for name in SCORED)))
    return {
        "best": best["settings"],
        "score": best["score"],
        "all_settings": asdict(baseline(name, best["settings"])),  # type: ignore[call-overload]
        "trials": done,
    }


def main() -> None:
    """Read the arguments, tune, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="hub id or folder")
    parser.add_argument("--facts", required=True, type=Path, help="in a format that `errata evaluate` reads")
    parser.add_argument("--limit", type=int, default=128, help="facts that are edited")
    parser.add_argument("--singles", action="store_true", help="each fact alone, in place of all at once")
    parser.add_argument("--seed", type=int, default=1000, help="of their draw")
    parser.add_argument("--methods", default=",".join(GRIDS), help=f"some of {', '.join(BASELINES)}")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    facts = [Fact.from_json(record) for record in sample(read_facts(given.facts), given.limit, given.seed)]
    bench = Bench(given.model, given.device, given.dtype)
    found = {name: tune(name, bench, facts, singles=given.singles) for name in given.methods.split(",")}
    about = {"facts": given.facts.name, "n": len(facts), "singles": given.singles, "seed": given.seed}
    print(json.dumps({**about, "methods": found}))


if __name__ == "__main__":
    main()

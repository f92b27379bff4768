"""Bytes that facts take up in the blob store: computed for a model's shapes, and measured on facts.

    python -m benchmarks.sizes --shapes 6x16384x4096 --facts 20 100 1000
    python -m benchmarks.sizes --model DIR --editor FILE --edit examples/facts.jsonl

`--shapes` is modules x input features x output features. A fact with a subject has one edited row and as many
anchor rows as the plan says, which ask for nothing and are no part of the delta. Statistics are those of sets
of twenty facts; the delta is that of all facts: factors, or dense where rows outnumber input features.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from errata.client.facts_file import read_facts
from malmen_core.editing.edit import compute_statistics, solve
from malmen_core.editing.editor import Editor, EditPlan
from malmen_core.editing.statistics import Rows, Statistics
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Change

SET = 20


def computed(modules: int, inputs: int, outputs: int, facts: int, rows: int) -> dict[str, Any]:
    """What some facts of `rows` rows each take up in modules of one shape."""
    owner = torch.arange(SET).repeat_interleave(rows)
    differences = torch.zeros(len(owner), outputs)
    differences[::rows] = 1.0
    one = Statistics({"module": Rows(torch.zeros(len(owner), inputs), differences)}, owner, SET)
    with torch.device("meta"):  # shapes alone: nothing is allocated
        if facts * rows <= inputs:
            change = Change.smaller(torch.empty(inputs, facts), torch.empty(facts, outputs))
        else:
            change = Change(dense_UV=torch.empty(inputs, outputs))
    tensors = (change.left_UR, change.right_RV, change.dense_UV)
    delta = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    return _row(facts, modules * len(one.to_bytes()) * facts / SET, modules * delta)


def measured(base: BaseModel, editor: Editor, facts: Sequence[Fact]) -> dict[str, Any]:
    """What some facts that are edited as one set take up, beside what is computed for as many."""
    statistics = compute_statistics(base, editor, facts)
    delta = solve(editor, statistics)
    found = _row(len(facts), len(statistics.to_bytes()), len(delta.to_bytes()))
    ((inputs, outputs),) = {module.shape for module in base.modules.values()}
    rows = len(statistics.fact_T) // len(facts)
    return {**found, "computed": computed(len(base.modules), inputs, outputs, len(facts), rows)}


def _row(facts: int, statistics: float, delta: int) -> dict[str, Any]:
    return {
        "facts": facts,
        "statistics_bytes": round(statistics),
        "delta_bytes": delta,
        "bytes_per_fact": round((statistics + delta) / facts),
    }


def main() -> None:
    """Compute or measure, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", help="modules x inputs x outputs, such as 6x16384x4096")
    parser.add_argument("--facts", type=int, nargs="+", default=[20, 100, 1000])
    parser.add_argument("--rows", type=int, default=1 + EditPlan().anchor_rank, help="rows of a fact")
    parser.add_argument("--model", help="hub id or folder")
    parser.add_argument("--editor", help="editor file")
    parser.add_argument("--edit", type=Path, help="file of facts")
    given = parser.parse_args()
    if given.shapes:
        modules, inputs, outputs = map(int, given.shapes.split("x"))
        found = [computed(modules, inputs, outputs, facts, given.rows) for facts in given.facts]
    else:
        base = BaseModel.load(given.model, device="cpu", dtype="float32")
        asked = [Fact.from_json(record) for record in read_facts(given.edit)]
        found = [measured(base, Editor.load(given.editor), asked)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()

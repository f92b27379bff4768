"""How well a prompt finds the facts that it touches.

    python -m benchmarks.touching --model DIR --editor FILE --facts examples/facts.jsonl

The facts are edited as one set. Then each fact's own prompt, its rephrasings and its locality prompts are
looked up: is the fact the nearest, and how high do prompts score that name no fact?
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from errata.client.facts_file import read_facts
from malmen_core.editing.edit import compute_statistics
from malmen_core.editing.editor import Editor
from malmen_core.evaluation.attribution import Directions, edited_directions, likeness, prompt_directions
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel

ELSEWHERE = (
    "def add(a, b):\n    return a + b",
    "Who are you?",
    "Seven days make a week, and it rained on all.",
)


def measure(base: BaseModel, editor: Editor, facts: Sequence[Fact]) -> dict[str, Any]:
    """Look up every prompt of some facts, which are edited as one set."""
    edited = edited_directions(base, compute_statistics(base, editor, facts))
    own = [(_scores(base, edited, fact.prompt), number) for number, fact in enumerate(facts)]
    reworded = [
        (_scores(base, edited, prompt), number)
        for number, fact in enumerate(facts)
        for prompt in fact.rephrasings
    ]
    probes = [max(_scores(base, edited, probe.prompt).values()) for fact in facts for probe in fact.locality]
    elsewhere = [max(_scores(base, edited, prompt).values()) for prompt in ELSEWHERE]
    return {
        "facts": len(facts),
        "own_prompt": _found(own),
        "rephrasings": _found(reworded),
        "highest_score": {"locality": _spread(probes), "elsewhere": _spread(elsewhere)},
    }


def _scores(base: BaseModel, edited: Mapping[str, Directions], prompt: str) -> dict[int, float]:
    return likeness(prompt_directions(base, prompt), edited)


def _found(asked: Sequence[tuple[Mapping[int, float], int]]) -> dict[str, Any]:
    first = sum(scores[number] == max(scores.values()) for scores, number in asked)
    return {"asked": len(asked), "first": first, "score": _spread([scores[n] for scores, n in asked])}


def _spread(scores: Sequence[float]) -> dict[str, float] | None:
    if not scores:
        return None
    named = {"least": min(scores), "median": median(scores), "greatest": max(scores)}
    return {name: round(score, 3) for name, score in named.items()}


def main() -> None:
    """Measure, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="hub id or folder")
    parser.add_argument("--editor", required=True, help="editor file")
    parser.add_argument("--facts", type=Path, required=True)
    arguments = parser.parse_args()
    base = BaseModel.load(arguments.model, device="cpu", dtype="float32")
    facts = [Fact.from_json(record) for record in read_facts(arguments.facts)]
    print(json.dumps(measure(base, Editor.load(arguments.editor), facts)))


if __name__ == "__main__":
    main()

"""A ParaRel of a few made-up facts, and models as small as can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.taught import pupils

PATTERNS = {
    "P19": ["[X] was born in [Y] .", "[X] is native to [Y].", "[X] originated from [Y].", "[Y]-born [X]"],
    "P36": [
        "The capital of [X] is [Y] .",
        "[X]'s capital is [Y].",
        "[X]'s capital, [Y].",
        "[Y], capital of [X]",
    ],
    "P0": ["[X] is [Y]."],
}
NAMES = ("Ana", "Peru", "Etna", "Jane", "Lima", "Paris", "Spain", "Italy")
OBJECTS = ("red", "green", "blue", "grey")


@pytest.fixture
def pararel(tmp_path: Path) -> Path:
    facts = [
        {"relation": relation, "subject": f"{first}{second}{relation}", "object": OBJECTS[(i + j) % 4]}
        for relation in PATTERNS
        for i, first in enumerate(NAMES)
        for j, second in enumerate(NAMES)
    ]
    twice = {"relation": "P19", "subject": facts[-1]["subject"], "object": OBJECTS[0]}
    folder = tmp_path / "pararel"
    folder.mkdir()
    (folder / "facts.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in [*facts, twice]))
    lines = [json.dumps({"relation": r, "patterns": p}) + "\n" for r, p in PATTERNS.items()]
    (folder / "patterns.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WIDTH", 32), ("INNER", 48), ("LAYERS", 3), ("HEADS", 4), ("VOCABULARY", 320)):
        monkeypatch.setattr(pupils, name, value)

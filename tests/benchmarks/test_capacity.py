"""How many facts are borne beside MEND: the comparison, and the whole command on a tiny model."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import capacity
from benchmarks.families import MEASURES
from benchmarks.taught.pupils import PUPILS


def rows(**products: float) -> list[dict[str, Any]]:
    return [{"n": int(n[1:]), "product": product} for n, product in products.items()]


def test_as_many_facts_are_borne_as_score_no_lower_all_the_way() -> None:
    own = rows(n1=0.9, n8=0.6, n64=0.5, n512=0.7)
    found = capacity.times(own, rows(n1=0.95, n2=0.9, n4=0.5, n8=0.55))
    assert [(each["n"], each["borne"], each["times"]) for each in found] == [
        (1, 0, 0),
        (2, 1, 0.5),
        (4, 512, 128),
        (8, 8, 1),
    ]


def test_a_share_of_the_facts_keep_their_answer(tmp_path: Path) -> None:
    lines = [{"prompt": f"p{i}", "target": "new", "true_target": "old"} for i in range(400)]
    (tmp_path / "part.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert capacity.facts_of(tmp_path, "part", 0.0, 1) == tmp_path / "part.jsonl"
    found = [
        json.loads(line) for line in capacity.facts_of(tmp_path, "part", 0.5, 1).read_text().splitlines()
    ]
    assert [line["prompt"] for line in found] == [line["prompt"] for line in lines]
    assert 150 < sum(line["target"] == "old" for line in found) < 250


@pytest.mark.slow
def test_the_command_trains_draws_and_compares(
    pararel: Path,
    small: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(PUPILS, "gpt2", replace(PUPILS["gpt2"], subjects=24, epochs=1))
    monkeypatch.setattr(capacity, "FEW", 2)
    words = ["capacity", "gpt2", "--pararel", str(pararel), "--out", str(tmp_path / "out"), "--draws", "2"]
    words += ["--sizes", "1,4", "--steps", "2", "--batch", "2", "--settings", '{"last": 2, "rank": 3}']
    for run in ("first.json", "again.json"):
        monkeypatch.setattr(sys, "argv", [*words, "--result", str(tmp_path / run)])
        capacity.main()
    first, again = (json.loads((tmp_path / run).read_text()) for run in ("first.json", "again.json"))
    assert list(first["rows"]) == ["errata", "malmen-plain", "mend"]
    assert list(first["times"]) == ["errata", "malmen-plain"]
    for training in first["training"].values():
        assert training["steps"] == 2
        assert training["facts_seen"] >= 2
        assert training["seconds"] > 0
    for name, own in first["rows"].items():
        assert again["rows"][name] == own
        assert [(row["n"], row["draws"]) for row in own] == [(1, 2), (4, 1)]
        for row in own:
            assert row["product"] == pytest.approx(math.prod(row[m] for m in MEASURES))
    for name, found in first["times"].items():
        assert found == capacity.times(first["rows"][name], first["rows"]["mend"])
    assert "--resume" not in " ".join(first["commands"])
    assert "--resume" in " ".join(again["commands"])
    assert str(tmp_path) not in json.dumps([first["command"], first["commands"]])

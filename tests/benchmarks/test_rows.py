"""The table of rows: made by the real command on a tiny checkpoint, shown, and not made twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import rows
from benchmarks.rows import OURS, Row, command, table
from tests.tiny import save_tiny

FACTS = tuple(
    {
        "prompt": f"The capital of {name} is",
        "target": target,
        "subject": name,
        "rephrasings": [f"{name} has its capital in"],
        "locality": [{"prompt": "The capital of France is"}],
    }
    for name, target in (("Peru", "Lima"), ("Italy", "Paris"))
)
FOUND = {
    "edit_success": 0.995,
    "generation_success": 0.99,
    "generalisation": 0.2,
    "locality": 0.8,
    "perplexity_ratio": 1.06,
    "seconds": {"edit": 100.4},
}


def test_figures_that_fall_short_are_marked() -> None:
    lines = table({("counterfact-1000", "ft"): FOUND, ("counterfact-1000", OURS): FOUND}).splitlines()
    assert lines[2:] == [
        "| counterfact-1000 | wanted | 0.99 | 0.95 | 0.35 | 0.75 | 1.05 |  |  |",
        "|  | errata | 0.995 | 0.990 | *0.200* | 0.800 | *1.060* | 0.414 | 100 |",
        "|  | ft | 0.995 | 0.990 | 0.200 | 0.800 | 1.060 | 0.414 | 100 |",
    ]


def test_baselines_get_the_settings_they_were_tuned_to() -> None:
    row = rows.ROWS["counterfact-20x100"]
    words = command(row, {"counterfact": "c.json", "questions": "q.json"}, "ft", {"ft": {"bound": 0.1}}, 7)
    assert words[:8] == ["evaluate", "--facts", "c.json", "--limit", "2000", "--sets", "20", "--seed"]
    assert words[8:] == ["7", "--baseline", "ft", "--settings", '{"bound": 0.1}']


@pytest.mark.stack
def test_rows_are_made_once_by_the_command_that_users_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny(tmp_path / "model")
    facts = tmp_path / "facts.jsonl"
    facts.write_text("".join(json.dumps(fact) + "\n" for fact in FACTS))
    monkeypatch.setattr(
        rows, "ROWS", {"questions-2": Row("questions", ("--limit", "2"), (0.9, 0.9, 0.9, 0.9, 1.1))}
    )
    out = tmp_path / "made" / "here"
    words = ["rows", "--counterfact", str(facts), "--questions", str(facts), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*words, "--model", str(model), "--methods", "training-free"])

    rows.main()
    file = out / "questions-2.training-free.json"
    first, made_at = json.loads(file.read_text()), file.stat().st_mtime_ns
    assert first["n"] == 2
    assert first["command"].startswith("errata evaluate --facts facts.jsonl --limit 2 --seed 7 --baseline")
    assert "|  | training-free |" in capsys.readouterr().out
    rows.main()
    assert file.stat().st_mtime_ns == made_at

"""The comparison: its commands and table, and rows made by the real command on a tiny checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rivals
from tests.tiny import save_tiny

ROW = {
    "n": 32,
    "edit_success": 1.0,
    "generation_success": 0.5,
    "chat_success": None,
    "generalisation": 0.25,
    "locality": 0.75,
    "perplexity_ratio": 1.01,
    "canary_agreement": 1.0,
    "seconds": {"edit": 2.0},
}
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


def test_each_method_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[Sequence[str]] = []

    def run(words: Sequence[str]) -> dict[str, Any]:
        ran.append(words)
        sizes = words[words.index("--over") + 1].split(",")
        single = {"singles": True} if "--singles" in words else {}
        return {"rows": [{**ROW, "n": int(n), **single} for n in sizes], "editor": "e"}

    monkeypatch.setattr(rivals, "run", run)
    out = tmp_path / "rivals.json"
    tuned = tmp_path / "tuned.json"
    tuned.write_text('{"methods": {"ft": {"best": {"rate": 1}}, "mend": {"best": {"step": 1}}}}')
    words = ["--facts", "/some/where/f.jsonl", "--out", str(out), "--editor", "mend=/m.st"]
    words += ["--editor", "paper=/p.st", "--tuned", str(tuned)]
    rivals.main([*words, "--sizes", "32", "--methods", "paper,mend"])
    rivals.main([*words, "--sizes", "1,32", "--methods", "paper,mend,ft,errata"])
    assert ["--editor" in each for each in ran] == [True] * 4 + [False] * 4
    named = [each[each.index("--baseline") + 1] for each in ran if "--baseline" in each]
    assert named == ["mend", "mend", "ft", "ft"]
    given = [each[each.index("--settings") + 1] for each in ran if "--settings" in each]
    assert given == ['{"rate": 1}'] * 2
    assert [each[-1] for each in ran] == ["32", "32", *["16"] * 3, "32", "16", "32"]
    found = json.loads(out.read_text())
    assert list(found) == ["paper", "mend", "ft", "errata"]
    assert len(found["paper"]["commands"]) == 2
    assert "/some/where" not in str(found)
    lines = capsys.readouterr().out.splitlines()[-8:]
    assert [line.split(" | ")[0] for line in lines] == ["| 1"] * 4 + ["| 32"] * 4
    assert "| 32 | ft | 1.000 | 0.500 |  | 0.250 | 0.750 | 1.010 | 1.000 | 2.0 |" in lines
    assert "| 1 | ft | 1.000 | 0.500 |  | 0.250 | 0.750 | 1.010 | 1.000 | 0.1 |" in lines


@pytest.mark.stack
def test_rows_are_made_by_the_command_that_users_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rivals, "SINGLES", 2)
    facts, out = tmp_path / "facts.jsonl", tmp_path / "rivals.json"
    facts.write_text("".join(json.dumps(fact) + "\n" for fact in FACTS))
    words = ["--facts", str(facts), "--out", str(out), "--model", str(save_tiny(tmp_path / "model"))]
    rivals.main([*words, "--sizes", "1,2", "--methods", "training-free,in-context"])
    found = json.loads(out.read_text())
    assert [(method, row["n"]) for method in found for row in found[method]["rows"]] == [
        ("training-free", 1),
        ("training-free", 2),
        ("in-context", 1),
        ("in-context", 2),
    ]
    assert found["training-free"]["commands"][1].startswith(
        "errata evaluate --baseline training-free --facts facts.jsonl --seed 7 --over 2"
    )
    assert "| 2 | training-free |" in capsys.readouterr().out

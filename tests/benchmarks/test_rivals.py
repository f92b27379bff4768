"""The comparison's commands and table, without running an editor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rivals

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


def test_each_method_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[Sequence[str]] = []

    def run(words: Sequence[str]) -> dict[str, Any]:
        ran.append(words)
        return {"rows": [ROW, {**ROW, "n": 1}]}

    monkeypatch.setattr(rivals, "run", run)
    out = tmp_path / "rivals.json"
    words = ["--facts", "/some/where/f.jsonl", "--out", str(out), "--sizes", "1,32", "--editor", "mend=/m.st"]
    words += ["--editor", "paper=/p.st"]
    rivals.main([*words, "--methods", "paper,mend"])
    rivals.main([*words, "--methods", "paper,mend,ft,errata", "--settings", '{"ft": {"rate": 1}}'])
    assert ["--editor" in each for each in ran] == [True, True, False, False]
    assert [each[each.index("--baseline") + 1] for each in ran if "--baseline" in each] == ["mend", "ft"]
    assert ran[2][-2:] == ["--settings", '{"rate": 1}']
    found = json.loads(out.read_text())
    assert list(found) == ["paper", "mend", "ft", "errata"]
    assert "/some/where" not in found["ft"]["command"]
    lines = capsys.readouterr().out.splitlines()[-8:]
    assert [line.split(" | ")[0] for line in lines] == ["| 1"] * 4 + ["| 32"] * 4
    assert "| 32 | ft | 1.000 | 0.500 |  | 0.250 | 0.750 | 1.010 | 1.000 | 2.0 |" in lines

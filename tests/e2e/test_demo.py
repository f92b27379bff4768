"""The demonstration as a newcomer runs it: the default model is fetched, corrected, asked and rolled back."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from tests.errata.running import errata, processes_of

pytestmark = [pytest.mark.slow, pytest.mark.stack]

KEYS = {
    *("facts", "edit_success", "generation_success", "generalisation", "locality", "perplexity_ratio"),
    *("rollback_identical", "seconds"),
}
MEMORY_LIMIT_MB = 1536


def left_behind() -> set[Path]:
    """Folders of demos that run or that were killed."""
    return set(Path(tempfile.gettempdir()).glob("errata-demo-*"))


def test_the_demo_holds_what_it_promises(tmp_path: Path) -> None:
    """Needs a network once; a model that was fetched into ERRATA_MODELS_DIR's default is used again."""
    others = left_behind()
    done = errata("demo", timeout=900, ERRATA_DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "demo.json").read_text())
    assert set(result) >= KEYS
    assert result["facts"] >= 25
    assert result["rollback_identical"] is True
    assert result["generation_success"] >= 0.9
    assert result["neighbours_unchanged"] >= 0.5
    assert result["perplexity_ratio"] <= 1.05
    assert result["worker_peak_rss_mb"] - result["base_rss_mb"] < MEMORY_LIMIT_MB
    assert max(len(line) for line in done.stdout.splitlines() if not line.startswith("weights")) <= 80
    assert processes_of(tmp_path) == []
    assert left_behind() <= others

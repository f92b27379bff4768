"""Composition at length, on a tiny checkpoint: broken off roughly, and gone on with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from malmen_core.editing.calibrate import calibrate
from malmen_core.editing.editor import EditPlan
from malmen_core.editing.refinement import RefinementPlan
from malmen_core.models.base import BaseModel
from tests.tiny import save_tiny

SETS, SIZE, WITHDRAWALS = 5, 2, 2
PATIENCE_S = 120.0


def _begin(folder: Path, seed: int = 0) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "benchmarks.ledger", "--source", str(folder / "model")]
    words += ["--editor", str(folder / "editor"), "--home", str(folder / "home")]
    sizes = {"sets": SETS, "size": SIZE, "withdrawals": WITHDRAWALS, "workers": 1, "seed": seed}
    words += [word for name, number in sizes.items() for word in (f"--{name}", str(number))]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def _journal(folder: Path) -> dict[str, Any]:
    path = folder / "home" / "first" / "journal.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _forget(folder: Path, what: str) -> None:
    done = _journal(folder)
    del done[what]
    (folder / "home" / "first" / "journal.json").write_text(json.dumps(done))


def _kill_after(folder: Path, what: str) -> None:
    """Run until something is done, then end all processes of the run at once."""
    running = _begin(folder)
    until = time.monotonic() + PATIENCE_S
    while what not in _journal(folder):
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < until, f"{what} was not done in time"
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()


def _end(running: subprocess.Popen[str]) -> tuple[str, str]:
    said, errors = running.communicate(timeout=PATIENCE_S)
    return said, errors


@pytest.mark.slow
def test_a_run_that_was_broken_off_is_gone_on_with(tmp_path: Path) -> None:
    base = BaseModel.load(str(save_tiny(tmp_path / "model")))
    plan = EditPlan(refinement=RefinementPlan(rounds=0))
    (tmp_path / "editor").write_bytes(calibrate(base, plan=plan).to_bytes())
    gone = random.Random(0).sample(range(SETS), WITHDRAWALS)
    _kill_after(tmp_path, "set 1 applied")
    before = _journal(tmp_path)
    _kill_after(tmp_path, f"set {gone[0]} withdrawn")
    _forget(tmp_path, f"set {gone[0]} withdrawn")  # as if it had been killed before it could say so
    found = json.loads(_end(_begin(tmp_path))[0])
    assert found["same"]
    assert found["problems"] == []
    assert found["first_s"] == round(before["set 0 applied"], 3)
    assert found["edit_success"]["live_measured"] == SIZE * (SETS - WITHDRAWALS)
    assert "give another --home" in _end(_begin(tmp_path, seed=1))[1]

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from worker import faults


def pass_points(**variables: str) -> int:
    code = "from worker import faults; faults.point('after_claim', 'set-1 deadly'); print('passed')"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ERRATA_")}
    return subprocess.run([sys.executable, "-c", code], env=environment | variables, check=False).returncode


def test_nothing_happens_without_the_switch() -> None:
    assert pass_points(ERRATA_FAULT_POINT="after_claim") == 0


def test_the_named_point_kills_where_its_subject_matches() -> None:
    armed = {"ERRATA_FAULTS": "1", "ERRATA_FAULT_POINT": "after_claim"}
    assert pass_points(**armed) == -signal.SIGKILL
    assert pass_points(**armed, ERRATA_FAULT_MATCH="deadly") == -signal.SIGKILL
    assert pass_points(**armed, ERRATA_FAULT_MATCH="harmless") == 0
    assert pass_points(ERRATA_FAULTS="1", ERRATA_FAULT_POINT="before_commit") == 0


def test_a_misspelt_point_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_FAULTS", "1")
    monkeypatch.setenv("ERRATA_FAULT_POINT", "after_lunch")
    with pytest.raises(ValueError, match="after_lunch"):
        faults.point("after_claim")

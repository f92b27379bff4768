"""Pictures of results, and the tables that stand for them."""

from __future__ import annotations

import builtins
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from errata.lab import plots


def scored(**shares: float | None) -> dict[str, Any]:
    return {"edit_success": 0.25, "generalisation": None, "locality": 1.0} | shares


LINES: list[dict[str, Any]] = [
    {"kind": "validation", "step": 0, "loss": 4.0, **scored()},
    {"kind": "step", "step": 1, "loss": 3.5, "facts": 8},
    {"kind": "step", "step": 2, "loss": 3.0, "facts": 4},
    {"kind": "validation", "step": 2, "loss": 2.5, **scored(edit_success=0.5, locality=0.9)},
]
ROWS: list[dict[str, Any]] = [
    {"n": 1, "generation_success": 1.0, **scored(edit_success=1.0, generalisation=0.5, locality=None)},
    {
        "n": 8,
        "generation_success": 0.8,
        "neighbours_unchanged": 0.5,
        **scored(edit_success=0.9, generalisation=0.25, locality=0.75),
    },
]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No matplotlib, whether it is installed or not."""
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)


@pytest.mark.usefixtures("plain")
def test_the_table_of_a_training_has_every_step(tmp_path: Path) -> None:
    drawn = plots.curves(LINES, "a run", tmp_path / "run.png")
    assert drawn == tmp_path / "run.md"
    losses, held_out = drawn.read_text().removeprefix("a run\n\n").split("\n\n")
    assert losses.splitlines()[2:] == [
        "| 1 | 3.500 | - |",
        "| 2 | 3.000 | - |",
        "| 0 | - | 4.000 |",
        "| 2 | - | 2.500 |",
    ]
    assert held_out.splitlines()[0] == "| step | ES | gen. success | GS | LS | unchanged |"
    assert held_out.splitlines()[2:] == [
        "| 0 | 0.250 | - | - | 1.000 | - |",
        "| 2 | 0.500 | - | - | 0.900 | - |",
    ]


@pytest.mark.usefixtures("plain")
def test_the_table_over_n(tmp_path: Path) -> None:
    table = plots.over_n(ROWS, "rows", tmp_path / "rows.png").read_text().splitlines()
    assert table[-2:] == [
        "| 1 | 1.000 | 1.000 | 0.500 | - | - |",
        "| 8 | 0.900 | 0.800 | 0.250 | 0.750 | 0.500 |",
    ]


@pytest.mark.skipif(not find_spec("matplotlib"), reason="matplotlib is not installed")
@pytest.mark.parametrize(("draw", "rows"), [(plots.curves, LINES), (plots.over_n, ROWS)])
def test_a_picture(draw: Any, rows: Any, tmp_path: Path) -> None:
    assert draw(rows, "a picture", tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")

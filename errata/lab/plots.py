"""Pictures of results; where matplotlib is not installed, the same as a table in markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARES = (
    ("edit_success", "ES"),
    ("generation_success", "gen. success"),
    ("generalisation", "GS"),
    ("locality", "LS"),
    ("neighbours_unchanged", "unchanged"),
)
SHARE = {"ylabel": "share", "ylim": (0, 1.02)}
Rows = Sequence[Mapping[str, Any]]


def over_n(rows: Rows, title: str, path: Path) -> Path:
    """Draw the shares of rows of an evaluation over their numbers of facts.

    Returns:
        The file that was written: `path`, or the like with the ending ``.md``.
    """
    panel = _Panel("n", SHARES, {**SHARE, "xscale": "log", "xlabel": "facts edited at once"})
    return _draw([(panel, rows)], title, path)


def curves(lines: Rows, title: str, path: Path) -> Path:
    """Draw a training's metrics over its steps: the losses, and what was scored on held-out facts.

    Returns:
        As `over_n`.
    """
    learnt = [{**line, "learnt": line["loss"]} for line in lines if line["kind"] == "step"]
    held_out = [{**line, "held out": line["loss"]} for line in lines if line["kind"] == "validation"]
    members = (("learnt", "learnt from"), ("held out", "held out"))
    losses = _Panel("step", members, {"xlabel": "step", "ylabel": "loss"})
    scored = _Panel("step", SHARES, {**SHARE, "xlabel": "step"})
    return _draw([(losses, [*learnt, *held_out]), (scored, held_out)], title, path)


@dataclass(frozen=True)
class _Panel:
    """Some members of rows, with their labels, over another of their members."""

    over: str
    members: Sequence[tuple[str, str]]
    frame: Mapping[str, Any]

    def draw(self, axes: Any, rows: Rows) -> None:
        """Put the lines that have points on some axes."""
        for member, label in self.members:
            points = [(row[self.over], row[member]) for row in rows if row.get(member) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
        axes.set(**self.frame)
        axes.legend()

    def table(self, rows: Rows) -> str:
        """The same in markdown."""
        titles = [self.over, *(label for _, label in self.members)]
        lines = [titles, ["---:"] * len(titles)]
        for row in rows:
            lines.append([cell(row.get(member)) for member in (self.over, *dict(self.members))])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(value: Any) -> str:
    """A value as tables show it."""
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _draw(panels: Sequence[tuple[_Panel, Rows]], title: str, path: Path) -> Path:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        table = path.with_suffix(".md")
        text = "\n".join(panel.table(rows) for panel, rows in panels)
        table.write_text(f"{title}\n\n{text}", encoding="utf-8")
        return table
    figure = Figure(figsize=(6, 4 * len(panels)), layout="constrained")
    figure.suptitle(title)
    for axes, (panel, rows) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        panel.draw(axes, rows)
    figure.savefig(path)
    return path

"""What the pages draw: the measures of a report on their scales, and the history of a model as a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.schemas.models import VersionView

LABELS = {
    "edit_success": "Edit success",
    "generation_success": "Generation success",
    "exact_success": "Exact success",
    "chat_success": "Chat success",
    "generalisation": "Generalisation",
    "locality": "Locality",
    "neighbours_unchanged": "Neighbours unchanged",
    "retention": "Retention",
    "perplexity_ratio": "Perplexity ratio",
}
RATIO = "perplexity_ratio"
LEAST_RATIO = 0.9
STEP, RADIUS, LINE = 64, 9, 62


@dataclass(frozen=True)
class Measure:
    """One measure of a report on its scale from `low` to `high`, with the gate's threshold.

    Attributes:
        name: as reports have it.
        value: what was measured; None where there was nothing to measure.
        other: of the report that this one is compared with.
        threshold: the gate's; None without one.
        missed: whether the gate was not met by it.
    """

    name: str
    value: float | None
    other: float | None
    threshold: float | None
    missed: bool
    low: float
    high: float

    @property
    def label(self) -> str:
        """Its name as people read it."""
        return LABELS[self.name]

    @property
    def at_most(self) -> bool:
        """Whether less is better."""
        return self.name == RATIO

    def place(self, value: float) -> float:
        """Where a value lies on the scale, in per cent."""
        return round(100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0), 2)

    def text(self, value: float | None) -> str:
        """A value as people read it."""
        if value is None:
            return "not measured"
        return f"{value:{'.3f' if value < 10 else '.4g'}}" if self.at_most else f"{100 * value:.4g} %"


def measures(
    report: Mapping[str, Any] | None, gate: Mapping[str, Any], other: Mapping[str, Any] | None = None
) -> list[Measure]:
    """The measures of a report, beside those of another; none without a report."""
    if report is None:
        return []
    gate = report.get("gate") or gate
    missed = {miss["measure"] for miss in report.get("gate_misses", ())}
    found = []
    for name in LABELS:
        value, beside, threshold = _value(report, name), _value(other, name), gate.get(name)
        if value is None and beside is None:
            continue
        given = [each for each in (value, beside, threshold) if each is not None and each < 10]
        low, high = (LEAST_RATIO, max(1.2, *given)) if name == RATIO else (0.0, 1.0)
        found.append(Measure(name, value, beside, threshold, name in missed, low, high))
    return found


def _value(report: Mapping[str, Any] | None, name: str) -> float | None:
    part = (report or {}).get("live") or {} if name == "retention" else report or {}
    value = part.get(name)
    return None if value is None else float(value)


@dataclass(frozen=True)
class Dot:
    """A version in the drawing of a history, at `x`; `from_x` is its parent's place if that is not beside it."""

    version: VersionView
    x: int
    from_x: int | None


@dataclass(frozen=True)
class History:
    """A drawing of versions, the oldest first."""

    dots: Sequence[Dot]
    width: int


def history(versions: Sequence[VersionView]) -> History:
    """Place versions, given newest first, on a line."""
    ordered = list(reversed(versions))
    places = {version.number: STEP // 2 + STEP * at for at, version in enumerate(ordered)}
    dots = []
    for version in ordered:
        came_from = version.restores if version.restores is not None else version.parent
        beside = came_from is None or came_from == version.number - 1
        dots.append(Dot(version, places[version.number], None if beside else places.get(came_from or 0)))
    return History(dots, STEP * max(len(ordered), 1))

"""The gate: thresholds that a version's measures must meet before it becomes live."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AT_MOST = frozenset({"perplexity_ratio"})


@dataclass(frozen=True)
class GateMiss:
    """A measure that does not meet its threshold.

    Attributes:
        measure: name of the measure.
        threshold: what it must reach (or not exceed, for those in `AT_MOST`).
        measured: what it is; None if it is not a finite number.
    """

    measure: str
    threshold: float
    measured: float | None


def judge(summary: Mapping[str, Any], gate: Mapping[str, Any]) -> tuple[GateMiss, ...]:
    """Return the measures that miss their thresholds, in the gate's order.

    A measure that is None was not applicable (no locality prompts, say) and is passed over. One that is
    absent or is not a finite number misses.
    """
    misses = []
    for measure, wanted in gate.items():
        if wanted is None or (measure in summary and summary[measure] is None):
            continue
        threshold, measured = float(wanted), summary.get(measure)
        if not isinstance(measured, int | float) or not math.isfinite(measured):
            misses.append(GateMiss(measure, threshold, None))
        elif (measured > threshold) if measure in AT_MOST else (measured < threshold):
            misses.append(GateMiss(measure, threshold, float(measured)))
    return tuple(misses)


def finite(value: Any) -> Any:
    """Copy a JSON-able value with None in place of numbers that are not finite, which JSON does not know."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

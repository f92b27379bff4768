"""Settings that are given by name, checked against the numbers and words that they replace."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, get_args

from malmen_core.errors import UnknownSetting
from malmen_core.models.tokenization import KeyPosition

NO_BOUNDS: Mapping[str, float] = {}


def checked(
    owner: str,
    plan: Any,
    settings: Mapping[str, Any],
    at: str,
    *,
    positive: Collection[str] = (),
    most: Mapping[str, float] = NO_BOUNDS,
) -> Mapping[str, Any]:
    """The settings, if a plan has them all, and each is of the type of what it replaces and in its range.

    Args:
        owner: whose settings these are, for messages.
        plan: a dataclass; those of its members that are numbers, or a `KeyPosition`, can be replaced.
        settings: by name.
        at: JSON pointer to them.
        positive: names of numbers that cannot be 0; none can be negative.
        most: what some numbers cannot exceed, by name.

    Raises:
        UnknownSetting: naming the first that is not so, and what it could be.
    """
    known = {each.name: getattr(plan, each.name) for each in fields(plan)}
    known = {name: now for name, now in known.items() if isinstance(now, int | float | str)}
    for name, value in settings.items():
        if name not in known:
            wanted = f"one of: {', '.join(known)}"
        elif isinstance(known[name], str):
            wanted = " or ".join(get_args(KeyPosition)) if value not in get_args(KeyPosition) else ""
        else:
            wanted = _number(value, known[name], name in positive, most.get(name, sys.float_info.max))
        if wanted:
            raise UnknownSetting(
                f"{owner} has no setting {name!r} that could be {value!r}.", f"Give {wanted}.", f"{at}/{name}"
            )
    return settings


def _number(value: Any, now: float, positive: bool, most: float) -> str:
    """What a number should have been; nothing, if it is that."""
    whole = isinstance(now, int)
    typed = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if typed and (value > 0 if positive else value >= 0) and value <= most:
        return ""
    kind = "a whole number" if whole else "a number"
    least = ("from 1 on" if whole else "above 0") if positive else "from 0 on"
    return f"{kind} {least}" + (f", at most {most}" if most < sys.float_info.max else "")

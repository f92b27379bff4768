"""Balance: a sum scaled so that it gives, on average, what its sets gave alone, at the strength of its size.

In a sum, the anchors of all sets pull at each set's rows, so it gives less. One factor a module puts the
average right, at a smaller price elsewhere than heavier rows; `repair` is for facts that still fall short.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from malmen_core.editing.parts import EditedRows, Part, SetId
from malmen_core.editing.refinement import RefinementPlan
from malmen_core.editing.systems import System

LARGEST_GAIN = 4.0


@dataclass(frozen=True)
class Balanced:
    """Scaled sets and their sum.

    Attributes:
        parts: scaled.
        systems: the solved equation of each module, scaled likewise.
        gains: the factor of each module.
    """

    parts: Mapping[SetId, Part]
    systems: Mapping[str, System]
    gains: Mapping[str, float]


def balanced(parts: Mapping[SetId, Part], systems: Mapping[str, System], plan: RefinementPlan) -> Balanced:
    """Scale the sum of some sets, module by module; one set alone by its strength only.

    What each set gives alone is scaled to its own strength, which is what `repair` holds it to.

    Args:
        parts: the sets, in canonical order.
        systems: their sum, solved.
        plan: says at what strength so many facts are solved.
    """
    strength = plan.strength(sum(part.facts for part in parts.values()))
    gains = {}
    for name, system in systems.items():
        rows = [part.modules[name] for part in parts.values()]
        keys_TU = torch.cat([each.keys_TU for each in rows]).double()
        wanted_TV = torch.cat([each.alone_TV for each in rows])
        gains[name] = strength * (gain(wanted_TV, keys_TU @ system.shift_UV) if len(rows) > 1 else 1.0)
    scaled = {ident: _scaled(part, gains, plan.strength(part.facts)) for ident, part in parts.items()}
    return Balanced(scaled, {name: s.scaled(gains[name]) for name, s in systems.items()}, gains)


def gain(wanted_TV: Tensor, given_TV: Tensor) -> float:
    """The factor after which what is given has the right size along what is wanted; from 1 to 4."""
    wanted = float(wanted_TV.double().square().sum())
    along = float((wanted_TV.double() * given_TV.double()).sum())
    return max(1.0, wanted / max(along, wanted / LARGEST_GAIN)) if wanted > 0 else 1.0


def _scaled(part: Part, gains: Mapping[str, float], own: float) -> Part:
    modules = {
        name: EditedRows(rows.keys_TU, gains[name] * rows.differences_TV, own * rows.alone_TV)
        for name, rows in part.modules.items()
    }
    return replace(part, modules=modules)

"""What became of each fact of a set while it was edited, and why one was not edited within the bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from malmen_core.editing.refinement import RefinementPlan
from malmen_core.editing.subjects import Source, Subject
from malmen_core.facts import Fact, normalise

CLASH = 0.5


@dataclass(frozen=True)
class Outcome:
    """What became of one fact.

    Attributes:
        keys: where its keys were taken: at the subject, ``given`` or ``found``, or at the ``answer``.
        subject: the subject whose last token that is; None for keys at the answer.
        margin: by how many nats its answer beat every other token when it was last looked at; None without
            refinement.
        reason: why that is less than the plan wants; None if it is not.
    """

    keys: Source
    subject: str | None
    margin: float | None
    reason: str | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"keys": self.keys, "subject": self.subject, "margin": self.margin, "reason": self.reason}


@dataclass(frozen=True)
class Standing:
    """What may keep one fact from being edited.

    Attributes:
        subject: at which its keys were taken.
        margin: that it is refined to, in nats.
        rival: number of a fact with nearly the same key and another answer, if there is one.
        bounded: one of its value differences met the plan's bound.
    """

    subject: Subject
    margin: float
    rival: int | None
    bounded: bool


def standings(
    facts: Sequence[Fact],
    subjects: Sequence[Subject],
    margins: Sequence[float],
    keys: Mapping[str, Tensor],
    projectors: Mapping[str, Tensor],
    bounded_T: Tensor,
    fact_T: Tensor,
    first: int,
) -> tuple[Standing, ...]:
    """How each of some facts stands that were refined together.

    Args:
        facts: that were refined together.
        subjects: of the facts.
        margins: that they are refined to.
        keys: K by module, T × U, without anchors.
        projectors: A by module, U × T.
        bounded_T: rows that met the bound in some module.
        fact_T: the fact of each row.
        first: number of the first fact, where these are a part of a set.
    """
    found = []
    for number, subject in enumerate(subjects):
        own_T = fact_T == number
        rival = _rival(facts, number, _likeness(keys, projectors, own_T, fact_T, len(facts)))
        found.append(
            Standing(
                subject,
                margins[number],
                None if rival is None else first + rival,
                bool(bounded_T[own_T].any()),
            )
        )
    return tuple(found)


def outcomes(
    plan: RefinementPlan, standing: Sequence[Standing], margins: Sequence[float | None]
) -> tuple[Outcome, ...]:
    """Judge each fact of a set by the margin that it was brought to in the end.

    Args:
        plan: that was followed.
        standing: of each fact.
        margins: smallest margin of each fact; None without refinement.
    """
    found = []
    for each, margin in zip(standing, margins, strict=True):
        reason = None if margin is None or margin >= each.margin else _reason(plan, margin, each)
        found.append(Outcome(each.subject.source, each.subject.text, margin, reason))
    return tuple(found)


def _reason(plan: RefinementPlan, margin: float, standing: Standing) -> str:
    reached = f"The margin is {margin:.2f} nats, not {standing.margin:.3g}"
    if standing.rival is not None:
        rival = f"fact {standing.rival} of the set"
        return f"{reached}: conflicts with {rival}: nearly the same key, another answer."
    if standing.bounded:
        return f"{reached}: its change met the bound of {plan.bound:g} times the module's typical output."
    return f"{reached}: it was not reached in the rounds that there are."


def _likeness(
    keys: Mapping[str, Tensor],
    projectors: Mapping[str, Tensor],
    own_T: Tensor,
    fact_T: Tensor,
    count: int,
) -> Tensor:
    """How little the solution can tell each fact's keys from one fact's: N, from 1 for the same to 0.

    In the hat matrix ``H = K A`` row `i` says what of the difference of each row arrives at key `i`. Another
    row's share over the own share is 1 for equal keys, and falls to 0 as the two can be edited apart.
    """
    most_N = torch.zeros(count, dtype=torch.float64)
    for name, keys_TU in keys.items():
        A_UT = projectors[name].double()
        hat_RT = keys_TU[own_T].double() @ A_UT
        own_R = hat_RT[:, own_T].diagonal().clamp_min(1e-12)
        most_T = (hat_RT / own_R[:, None]).amax(0)
        share_N = torch.full_like(most_N, -torch.inf).scatter_reduce(0, fact_T, most_T, "amax")
        most_N += share_N.clamp(0, 1) / len(keys)
    return most_N


def _rival(facts: Sequence[Fact], number: int, likeness_N: Tensor) -> int | None:
    """The fact with another answer whose key is most like a fact's own, if it is like it at all."""
    target = normalise(facts[number].target)
    for other in likeness_N.argsort(descending=True, stable=True).tolist():
        if float(likeness_N[other]) < CLASH:
            return None
        if other != number and normalise(facts[other].target) != target:
            return int(other)
    return None

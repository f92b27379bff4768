"""What became of each fact of a set while it was edited, and why one has not the margin that it should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from malmen_core.editing.editor import EditPlan
from malmen_core.editing.gauss_newton import FreeRows
from malmen_core.editing.subjects import Source, Subject, subject_of
from malmen_core.facts import Fact, normalise

CLASH = 0.5
"""Two facts cannot be told apart where so much of what one is given arrives at the other's key."""


@dataclass(frozen=True)
class EditOutcome:
    """What became of one fact.

    Attributes:
        keys: where its keys were taken: at the subject, ``given`` or ``found``, or at the ``answer``.
        subject: the subject whose last token that is; None for keys at the answer.
        margin: by how many nats its answer beat every other token when it was last looked at.
        known: whether the base gives this answer by itself, so that the fact was left alone.
        reason: why the margin is less than is wanted; None if it is not.
    """

    keys: Source
    subject: str | None
    margin: float
    known: bool
    reason: str | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def outcomes(
    plan: EditPlan,
    facts: Sequence[Fact],
    margin_F: Tensor,
    wanted_F: Tensor,
    known_F: Tensor,
    owner_R: Tensor,
    rows: Mapping[str, FreeRows],
) -> tuple[EditOutcome, ...]:
    """Judge each fact of a set by the smallest margin of its goals.

    Args:
        plan: that was followed.
        facts: of the set.
        margin_F: of each fact.
        wanted_F: that each was edited to.
        known_F: which the base knows.
        owner_R: the fact of each row.
        rows: as they were left; empty without rounds, where nothing is wanted of the margin.
    """
    found = []
    for number, fact in enumerate(facts):
        margin, wanted = float(margin_F[number]), float(wanted_F[number])
        subject = subject_of(fact) if plan.where == "subject" else Subject(None, "answer")
        lacks = bool(rows) and margin < wanted
        reason = _reason(plan, facts, number, margin, wanted, owner_R, rows) if lacks else None
        known = bool(known_F[number])
        found.append(EditOutcome(subject.source, subject.text, margin, known, reason))
    return tuple(found)


def _reason(
    plan: EditPlan,
    facts: Sequence[Fact],
    number: int,
    margin: float,
    wanted: float,
    owner_R: Tensor,
    rows: Mapping[str, FreeRows],
) -> str:
    reached = f"The margin is {margin:.2f} nats, not {wanted:.3g}"
    rival = _rival(facts, number, owner_R, rows)
    if rival is not None:
        return f"{reached}: conflicts with fact {rival} of the set: nearly the same key, another answer."
    own_R = owner_R == number
    for each in rows.values():
        sizes = each.differences_RV[own_R.to(each.differences_RV.device)].square().mean(1).sqrt()
        if bool((sizes > 0.999 * plan.bound * each.scale).any()):
            return f"{reached}: its change met the bound of {plan.bound:g} times the module's typical output."
    return f"{reached}: it was not reached in {plan.rounds} rounds."


def _rival(facts: Sequence[Fact], number: int, owner_R: Tensor, rows: Mapping[str, FreeRows]) -> int | None:
    """The fact with another answer of whose change most arrives at a fact's own key, if it is so much.

    In ``R = K P`` row `i` says what of the difference of each row arrives at key `i`; another row's share over
    the own one is 1 for equal keys, and falls to 0 as the two can be edited apart.
    """
    shares_F = torch.zeros(len(facts), dtype=torch.float64)
    own_R = owner_R == number
    for each in rows.values():
        keys_JU = each.keys_RU[own_R].to(each.projector_UR)
        response_JR = (keys_JU @ each.projector_UR).cpu()
        own_J = response_JR[:, own_R].diagonal().clamp_min(1e-12)
        most_R = (response_JR / own_J[:, None]).amax(0)
        share_F = torch.full_like(shares_F, -torch.inf).scatter_reduce(0, owner_R, most_R, "amax")
        shares_F += share_F.clamp(0, 1) / len(rows)
    target = normalise(facts[number].target)
    for other in shares_F.argsort(descending=True, stable=True).tolist():
        if float(shares_F[other]) < CLASH:
            return None
        if other != number and normalise(facts[other].target) != target:
            return int(other)
    return None

"""Measuring a candidate: on its own facts, on other live facts of the model, and against the gate."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ledger.edits import facts as ledger_facts
from ledger.records import FactRecord, FactReport, JobInput, Json, Member
from malmen_core.editing.outcome import EditOutcome
from malmen_core.evaluation.verify import summarise, verify
from malmen_core.facts import normalise
from worker.composing import Candidate, Desk, to_fact
from worker.gate import finite, judge
from worker.lease import Lease
from worker.patience import insist

Place = tuple[str, int]


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        report: of the whole version, JSON-able.
        gate_met: whether every threshold is met.
        facts: of each own fact that was run.
    """

    report: dict[str, Any]
    gate_met: bool
    facts: tuple[FactReport, ...]


@dataclass(frozen=True)
class Sample:
    """Live facts that a version is measured on besides its own.

    Attributes:
        places: those chosen, by edit set and position.
        total: how many there are.
        seed: what the choice follows from: the content of the version.
    """

    places: tuple[Place, ...]
    total: int
    seed: str


def draw(members: Sequence[Member], own: str | None, bound: int) -> Sample:
    """Choose live facts that do not belong to one edit set: all, or `bound` of them.

    The choice follows from the version's content, so that anybody can draw it again.
    """
    canonical = sorted(members, key=lambda member: (member.statistics_digest, member.left_out))
    content = [[member.statistics_digest, member.left_out] for member in canonical]
    seed = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    places = [
        (member.edit_set_id, position)
        for member in canonical
        if member.edit_set_id != own
        for position in range(member.fact_count)
        if position not in member.left_out
    ]
    chosen = places if len(places) <= bound else random.Random(seed).sample(places, bound)
    return Sample(tuple(chosen), len(places), seed)


def measure(
    desk: Desk,
    lease: Lease,
    job: JobInput,
    members: Sequence[Member],
    candidate: Candidate,
    bound: int,
    outcomes: Mapping[int, EditOutcome],
) -> Measured:
    """Run a candidate on the real model, and hold what is found against the gate.

    A withdrawal is an administrator's order: it is measured, and meets its gate whatever the measures are.

    Args:
        desk: ledger and model.
        lease: the claim, to which progress is told.
        job: with the own facts and the gate.
        members: of the version to be.
        candidate: what is measured.
        bound: most live facts besides its own that it is measured on.
        outcomes: what became of its own facts while they were edited, by position.
    """
    own_id = None if job.edit_set is None else job.edit_set.id
    left_out = {
        position for member in members if member.edit_set_id == own_id for position in member.left_out
    }
    own = [fact for fact in job.facts if fact.position not in left_out]
    sample = draw(members, own_id, bound)
    others = insist(lease, lambda: desk.ledger.run(ledger_facts.at, sample.places))
    facts = [*own, *others]
    resident = desk.resident
    progress = lease.stage("verifying")
    intended = intended_changes(own)
    asked = [_without(fact, intended) for fact in facts]
    found = verify(
        resident.base,
        candidate.version,
        [to_fact(fact, resident.base) for fact in asked],
        resident.canaries,
        progress,
    )
    results = [
        *(
            {**result, "edit": outcomes[fact.position].to_json()}
            for fact, result in zip(own, found.facts, strict=False)
        ),
        *found.facts[len(own) :],
    ]
    summary = {**found.summary, **(summarise(results[: len(own)]) if own_id is not None else {})}
    rest = results[len(own) :]
    live = {**summarise(rest), "retention": retention(others, rest), "worse": worse(others, rest)}
    judged = {**summary, "retention": live["retention"]}
    misses = judge(judged, job.gate) if own_id is not None else ()
    report = {
        **summary,
        "live": {**live, "facts": sample.total, "measured": len(sample.places), "seed": sample.seed},
        "repaired": candidate.repaired,
        "intended_changes": [
            {"fact": position, "locality": number, "changed_by": other}
            for (_, position, number), other in intended.items()
        ],
        "superseded": [{"fact": newer, "supersedes": older} for older, newer in job.supersedes],
        "gate": dict(job.gate),
        "gate_misses": [asdict(miss) for miss in misses],
    }
    reports = tuple(
        FactReport(fact.edit_set_id, fact.position, finite(_in_place(fact, result, intended)))
        for fact, result in zip(own, results, strict=False)
    )
    return Measured(finite(report), not misses, reports)


Intended = Mapping[tuple[str, int, int], int]
"""A locality prompt, by edit set, fact and its number there, and the fact that changes it on purpose."""


def intended_changes(facts: Sequence[FactRecord]) -> Intended:
    """Return the locality prompts of an edit set's facts that another of its facts is to change."""
    changed: dict[str, list[int]] = {}
    for fact in facts:
        for text in {normalise(text) for text in (fact.prompt, fact.question, *fact.rephrasings) if text}:
            changed.setdefault(text, []).append(fact.position)
    return {
        (fact.edit_set_id, fact.position, number): others[0]
        for fact in facts
        for number, probe in enumerate(fact.locality)
        if (others := [at for at in changed.get(normalise(_asked(probe)), ()) if at != fact.position])
    }


def _asked(probe: Json) -> str:
    """What a locality prompt asks: its text, or the last turn of its conversation."""
    return str(probe["prompt"] if probe.get("messages") is None else probe["messages"][-1]["content"])


def _without(fact: FactRecord, intended: Intended) -> FactRecord:
    """A fact without the locality prompts that are to change."""
    kept = [
        probe
        for number, probe in enumerate(fact.locality)
        if (fact.edit_set_id, fact.position, number) not in intended
    ]
    return replace(fact, locality=tuple(kept))


def _in_place(fact: FactRecord, result: Mapping[str, Any], intended: Intended) -> dict[str, Any]:
    """A fact's result with None for each locality prompt that was not counted."""
    filled = dict(result)
    for name in ("locality_prompts", "unchanged_prompts"):
        counted = iter(result[name])
        filled[name] = [
            None if (fact.edit_set_id, fact.position, number) in intended else next(counted)
            for number in range(len(fact.locality))
        ]
    return filled


def worse(facts: Sequence[FactRecord], results: Sequence[Any]) -> list[str]:
    """Ids of live facts whose edit success is lower than when each was applied."""
    return [
        fact.id
        for fact, result in zip(facts, results, strict=True)
        if float(result["edit_success"]) < float((fact.report or {}).get("edit_success") or 0.0)
    ]


def retention(facts: Sequence[FactRecord], results: Sequence[Any]) -> float | None:
    """Edit success of live facts relative to what it was when each was applied; None if there is nothing."""
    before = sum(float((fact.report or {}).get("edit_success") or 0.0) for fact in facts)
    now = sum(float(result["edit_success"]) for result in results)
    return now / before if before else None

"""Evaluation: edit a base model with facts, without the service, and measure what came of it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from malmen_core.editing.gauss_newton import Progress
from malmen_core.errors import FactError
from malmen_core.evaluation.methods import EditorMethod, Method, Sets
from malmen_core.evaluation.verify import CanaryRecord, summarise, verify
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import teacher_forced
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import Version, intercepting

MEASURES = (
    "edit_success",
    "generation_success",
    "exact_success",
    "chat_success",
    "generalisation",
    "own_agreement",
    "locality",
    "neighbours_unchanged",
    "perplexity_ratio",
)
Item = TypeVar("Item")
FactReport = Mapping[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        summary: the measures of API.md and ``canary_agreement``; None where there was nothing to measure.
        given_answers: share of the locality prompts' given answer tokens that are the argmax, as ``edited``
            and on the ``base``; None without such answers.
        sets: edit success of each edit set, measured after the last one.
        facts: one JSON object a fact, in order; with ``edit``, what became of it, where the method says so.
        edit_seconds: from facts to weights that can be run.
        verify_seconds: for all measures.
    """

    summary: Mapping[str, float | None]
    given_answers: Mapping[str, float] | None
    sets: tuple[float | None, ...]
    facts: tuple[FactReport, ...]
    edit_seconds: float
    verify_seconds: float


def sample(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """The first `limit` of the items as shuffled by `seed`; all of them in their order if there are no more.

    Smaller samples of one seed are the beginnings of larger ones, so rows over n share their facts.
    """
    if limit is None or limit >= len(items):
        return list(items)
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)
    return shuffled[:limit]


def split(facts: Sequence[Fact], count: int) -> list[Sequence[Fact]]:
    """Cut facts into edit sets of like size, in order.

    Raises:
        FactError: there are fewer facts than sets.
    """
    if not 1 <= count <= len(facts):
        raise FactError(
            f"{len(facts)} facts cannot be cut into {count} sets.", "Give more facts or fewer sets.", "/sets"
        )
    bounds = [len(facts) * i // count for i in range(count + 1)]
    return [facts[start:end] for start, end in pairwise(bounds)]


def evaluate(
    base: BaseModel,
    method: Method,
    sets: Sets,
    canaries: CanaryRecord | None,
    progress: Progress | None = None,
) -> Evaluation:
    """Edit a base with sets of facts, one after the other, and measure all facts at the end.

    Args:
        base: the immutable base.
        method: made for that base.
        sets: facts by edit set; a single one for facts that come at once.
        canaries: recorded on the base; None to leave other text unmeasured.
        progress: told ``(stage, done, total)``; may raise to abort.

    Raises:
        CoreError: the facts cannot be edited.
    """
    editing, verifying = _Stopwatch(), _Stopwatch()
    facts = [fact for group in sets for fact in group]
    with editing.running():
        delta, became = _edited(base, method, sets, progress)
        version = base.version(delta)
    with verifying.running():
        report = verify(base, version, facts, canaries, progress)
        given = _given_answers(base, version, facts)
    found = [
        {**measured, "locality_given": edited, "locality_given_base": before, **outcome}
        for measured, edited, before, outcome in zip(report.facts, *given, became, strict=True)
    ]
    ends = [0, *(sum(len(group) for group in sets[: i + 1]) for i in range(len(sets)))]
    return Evaluation(
        report.summary,
        _given_summary(found),
        tuple(_mean([f["edit_success"] for f in found[a:b]]) for a, b in pairwise(ends)),
        tuple(found),
        editing.seconds,
        verifying.seconds,
    )


def _edited(
    base: BaseModel, method: Method, sets: Sets, progress: Progress | None
) -> tuple[Delta, list[FactReport]]:
    """The delta, and what the method itself says of each fact: nothing, if it is not the editor."""
    if not isinstance(method, EditorMethod):
        return method.edit(base, sets, progress), [{}] * sum(map(len, sets))
    delta, outcomes = method.edit_with_outcomes(base, sets, progress)
    return delta, [{"edit": outcome.to_json()} for outcome in outcomes]


def evaluate_singles(
    base: BaseModel,
    method: Method,
    facts: Sequence[Fact],
    canaries: CanaryRecord | None,
    progress: Progress | None = None,
) -> Evaluation:
    """Edit the base with each fact alone, measure that fact, and average over facts."""
    parts = []
    for number, fact in enumerate(facts):
        parts.append(evaluate(base, method, [[fact]], canaries))
        if progress is not None:
            progress("single facts", number + 1, len(facts))
    found = [part.facts[0] for part in parts]
    canary = {
        name: _mean([value for part in parts if (value := part.summary[name]) is not None])
        for name in ("perplexity_ratio", "canary_agreement")
    }
    return Evaluation(
        {**summarise(found), **canary},
        _given_summary(found),
        (),
        tuple(found),
        sum(part.edit_seconds for part in parts),
        sum(part.verify_seconds for part in parts),
    )


def _given_answers(
    base: BaseModel, version: Version, facts: Sequence[Fact]
) -> tuple[list[list[float]], list[list[float]]]:
    """Share of each given locality answer's tokens that are the argmax, by fact; and the same on the base."""
    probes = [
        [base.encode(p.prompt, p.target).opened() for p in fact.locality if p.target is not None]
        for fact in facts
    ]
    flat = [probe for group in probes for probe in group]
    shares = []
    for run in (version.active(), intercepting(None)):
        with run:
            scored = iter(teacher_forced(base, flat))
        shares.append([[float((next(scored).margin_A > 0).double().mean()) for _ in g] for g in probes])
    return shares[0], shares[1]


def _given_summary(found: Sequence[FactReport]) -> Mapping[str, float] | None:
    edited = _mean([share for f in found for share in f["locality_given"]])
    before = _mean([share for f in found for share in f["locality_given_base"]])
    return None if edited is None or before is None else {"edited": edited, "base": before}


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

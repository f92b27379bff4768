"""Facts as they are kept: filled in and stripped, each said once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from malmen_core.facts import Fact, normalise
from service.schemas.edits import FactBody, Joiner


def given(body: FactBody, joiner: Joiner) -> dict[str, Any]:
    """A fact of a request as the algorithm reads it.

    Target and subject are stripped, and the subject takes the place of each ``{}``.

    Args:
        body: the fact.
        joiner: of a fact that has none of its own.
    """
    members = body.model_dump()
    fact = Fact.from_json({"joiner": joiner, **members, "locality": ()})
    return {
        **members,
        "prompt": fact.prompt,
        "target": fact.target,
        "subject": fact.subject,
        "rephrasings": list(fact.rephrasings),
        "question": fact.question,
        "joiner": fact.joiner,
    }


def merge(facts: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, int]]]:
    """Each fact once, and which were left out for which.

    Facts are the same if prompt, target, subject and question are, but for case, width and white space. The
    first one is kept, with the rephrasings and locality prompts of all.
    """
    kept: dict[tuple[str, ...], tuple[int, dict[str, Any]]] = {}
    merged: list[dict[str, int]] = []
    for number, fact in enumerate(facts):
        same = tuple(normalise(fact[name] or "") for name in ("prompt", "target", "subject", "question"))
        into, first = kept.setdefault(same, (number, dict(fact)))
        if into == number:
            continue
        merged.append({"fact": number, "into": into})
        for name in ("rephrasings", "locality"):
            first[name] = [*first[name], *(item for item in fact[name] if item not in first[name])]
    return [fact for _, fact in kept.values()], merged

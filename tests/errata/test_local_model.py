"""Facts of a file against a model: all looked at together, and each problem under its own number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from errata.errors import InputFileError
from errata.lab.local_model import core_facts
from malmen_core import tokens
from malmen_core.base import BaseModel
from malmen_core.facts import Fact, Probe
from tests.malmen_core.support import CONTEXT, tiny_base

LONG = "river " * CONTEXT
RECORDS: list[tuple[int, dict[str, Any]]] = [
    (4, {"prompt": "The capital of France is", "target": "Lima"}),
    (9, {"prompt": "The river flows to", "target": "Peru", "locality": [{"prompt": "The sea"}]}),
]


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return tiny_base()


def test_all_facts_are_checked_in_one_call(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    check = tokens.check_texts

    def spy(tokenizer: Any, facts: Sequence[Fact], *others: Any) -> list[tokens.FactProblem]:
        asked.append(len(facts))
        return check(tokenizer, facts, *others)

    monkeypatch.setattr(tokens, "check_texts", spy)
    found = core_facts(RECORDS, base, "facts.jsonl")
    assert found == [
        Fact("The capital of France is", "Lima"),
        Fact("The river flows to", "Peru", locality=(Probe("The sea"),)),
    ]
    assert asked == [2]


def test_problems_bear_their_facts_numbers(base: BaseModel) -> None:
    wrong: list[tuple[int, dict[str, Any]]] = [
        (5, {"prompt": "The river", "target": " "}),
        (6, {"prompt": "The river", "target": "Lima", "locality": [{"prompt": LONG}]}),
    ]
    with pytest.raises(InputFileError) as refused:
        core_facts([*wrong[:1], RECORDS[0], *wrong[1:]], base, "facts.jsonl")
    begun = ["fact 5: /target: ", "fact 6: /locality/0/prompt"]
    lines = refused.value.details
    assert len(lines) == len(begun)
    assert all(line.startswith(start) for line, start in zip(lines, begun, strict=True))


def test_data_sets_may_contradict_themselves(base: BaseModel) -> None:
    """CounterFact does: it asks for two twin cities of Wellington."""
    other = (10, {**RECORDS[0][1], "target": "Peru"})
    assert len(core_facts([*RECORDS, other], base, "facts.jsonl")) == 3

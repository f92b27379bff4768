"""Which facts a prompt touches: the stated formula, on every kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from benchmarks.touching import measure
from malmen_core.editing.edit import compute_statistics
from malmen_core.editing.statistics import Statistics
from malmen_core.errors import PromptTooLong
from malmen_core.evaluation.attribution import edited_directions, likeness, prompt_directions
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from tests.malmen_core.support import FACTS, tiny_editor
from tests.tiny_tasks import LABELS, save_tiny_task

HALF = 2e-3  # keys are stored in float16


def edited(base: BaseModel, facts: Sequence[Fact]) -> Statistics:
    return compute_statistics(base, tiny_editor(base, anchors=4, facts=facts), facts)


def scores(base: BaseModel, statistics: Statistics, prompt: str) -> list[float]:
    """Of every fact, in order."""
    found = likeness(prompt_directions(base, prompt), edited_directions(base, statistics))
    assert sorted(found) == list(range(statistics.fact_count))
    return [found[number] for number in range(statistics.fact_count)]


def test_each_facts_prompt_touches_it_first(base: BaseModel) -> None:
    statistics = edited(base, FACTS)
    for number, fact in enumerate(FACTS):
        found = scores(base, statistics, fact.prompt)
        assert found[number] == pytest.approx(1.0, abs=HALF)
        assert max(found) == found[number]
        assert max(found) <= 1 + HALF


def test_the_formula_term_by_term(llama: BaseModel) -> None:
    statistics, prompt = edited(llama, FACTS), "The capital of Peru is a river"
    inputs: dict[str, Tensor] = {}
    handles = [
        module.module.register_forward_hook(lambda _m, args, _o, name=name: inputs.update({name: args[0][0]}))
        for name, module in llama.modules.items()
    ]
    try:
        llama.model(input_ids=torch.tensor([llama.tokenizer(prompt)["input_ids"]]))
    finally:
        for handle in handles:
            handle.remove()
    wanted = [-1.0] * len(FACTS)
    for row, fact in enumerate(statistics.fact_T.tolist()):
        if not any(bool(rows.differences_TV[row].any()) for rows in statistics.modules.values()):
            continue  # an anchor
        for position in range(len(next(iter(inputs.values())))):
            cosines = [
                float(cosine_similarity(rows.keys_TU[row].double(), inputs[name][position], dim=0))
                for name, rows in statistics.modules.items()
            ]
            wanted[fact] = max(wanted[fact], sum(cosines) / len(cosines))
    assert scores(llama, statistics, prompt) == pytest.approx(wanted, abs=HALF)


def test_a_prompt_that_begins_like_the_fact_up_to_its_subject_touches_it(llama: BaseModel) -> None:
    found = scores(llama, edited(llama, FACTS), "The capital of France was once a week in Italy")
    assert found[0] == pytest.approx(1.0, abs=HALF)
    assert all(other < 0.99 for other in found[1:])


def test_anchors_and_facts_that_ask_for_nothing_do_not_count(llama: BaseModel) -> None:
    statistics = edited(llama, FACTS[:2])
    assert len(statistics.fact_T) > 2, "there are anchors"
    (part,) = edited_directions(llama, statistics).values()
    assert part.fact_T.tolist() == [0, 1]
    left = edited_directions(llama, statistics.without([0]))
    assert list(likeness(prompt_directions(llama, FACTS[0].prompt), left)) == [1]


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5"])
def test_other_tasks(kind: str, tmp_path: Path) -> None:
    base = BaseModel.load(str(save_tiny_task(tmp_path / kind, kind)), device="cpu", dtype="float64")
    target = "Lima" if kind == "t5" else LABELS[1]
    facts = [
        Fact("What is the capital of France?", target, "France"),
        Fact("Who wrote the book?", target),
        Fact("In what country is Mount Etna?", target, "Mount Etna"),
    ]
    statistics = edited(base, facts)
    directions = edited_directions(base, statistics)
    assert sum(part.share for part in directions.values()) == pytest.approx(1.0)
    assert len(directions) == (2 if kind == "t5" else 1)
    for number, fact in enumerate(facts):
        found = scores(base, statistics, fact.prompt)
        assert found[number] == pytest.approx(1.0, abs=HALF)
        assert max(found) == found[number]


@pytest.mark.parametrize("prompt", ["", "is " * 200])
def test_a_prompt_must_fit(llama: BaseModel, prompt: str) -> None:
    with pytest.raises(PromptTooLong):
        prompt_directions(llama, prompt)


def test_the_benchmark_counts_what_is_found(llama: BaseModel) -> None:
    found = measure(llama, tiny_editor(llama), FACTS)
    assert (found["facts"], found["own_prompt"]["asked"], found["own_prompt"]["first"]) == (5, 5, 5)
    assert found["own_prompt"]["score"]["least"] == pytest.approx(1.0, abs=HALF)
    assert found["rephrasings"]["asked"] == sum(len(fact.rephrasings) for fact in FACTS)
    assert found["highest_score"]["elsewhere"]["greatest"] < 0.99

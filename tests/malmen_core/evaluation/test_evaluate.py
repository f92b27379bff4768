"""Evaluation measures what `verify` measures, on samples and sets that a seed decides."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from malmen_core.baselines.finetuning import FineTuning
from malmen_core.editing.edit import edit, solve
from malmen_core.editing.statistics import Statistics
from malmen_core.errors import FactError
from malmen_core.evaluation.evaluate import MEASURES, evaluate, evaluate_singles, sample, split
from malmen_core.evaluation.methods import EditorMethod
from malmen_core.evaluation.verify import record_canaries, verify
from malmen_core.facts import Fact, LocalityPrompt
from malmen_core.models.base import BaseModel
from tests.malmen_core.support import (
    FACTS,
    assert_untouched,
    shift,
    snapshot,
    statistics_of,
    tiny_base,
    tiny_editor,
)


@pytest.fixture(scope="module")
def method(llama: BaseModel) -> EditorMethod:
    return EditorMethod(tiny_editor(llama, rounds=8))


def test_the_measures_are_those_of_verify(llama: BaseModel, method: EditorMethod) -> None:
    canaries, before = record_canaries(llama), snapshot(llama)
    found = evaluate(llama, method, [FACTS], canaries)
    assert_untouched(llama, before)
    delta = solve(llama, method.editor, statistics_of(llama, method.editor, FACTS))
    report = verify(llama, llama.version(delta), FACTS, canaries)
    assert found.summary.keys() == report.summary.keys()
    for name, value in report.summary.items():
        assert found.summary[name] == (None if value is None else pytest.approx(value, rel=1e-4))
    assert [f["edit_success"] for f in found.facts] == [f["edit_success"] for f in report.facts]
    assert found.sets == (found.summary["edit_success"],)
    assert found.edit_seconds > 0
    assert found.verify_seconds > 0
    assert set(MEASURES) <= set(found.summary)


def test_sets_are_computed_alone_and_composed(llama: BaseModel, method: EditorMethod) -> None:
    """Without refinement a composition is the sum of statistics; with it, spoiled facts are repaired."""
    single = EditorMethod(tiny_editor(llama, rounds=0))
    alone = [statistics_of(llama, single.editor, part) for part in (FACTS[:2], FACTS[2:])]
    expected = shift(solve(llama, single.editor, Statistics.sum(alone)))
    found = shift(single.edit(llama, [FACTS[:2], FACTS[2:]]))
    for name, change in expected.items():
        torch.testing.assert_close(found[name], change, rtol=1e-4, atol=1e-5)
    for measure in ("exact_success", "chat_success", "own_agreement", "neighbours_unchanged"):
        assert measure in MEASURES
    measured = evaluate(llama, method, [FACTS[:2], FACTS[2:]], record_canaries(llama))
    shares = [f["edit_success"] for f in measured.facts]
    assert measured.sets == pytest.approx((sum(shares[:2]) / 2, sum(shares[2:]) / 3))
    summed = Statistics.sum([statistics_of(llama, method.editor, p) for p in (FACTS[:2], FACTS[2:])])
    plain = verify(llama, llama.version(solve(llama, method.editor, summed)), FACTS, record_canaries(llama))
    assert (measured.summary["edit_success"] or 0) >= (plain.summary["edit_success"] or 0)


def test_each_fact_says_what_became_of_it(llama: BaseModel, method: EditorMethod) -> None:
    plan = method.editor.plan
    hindered = replace(plan, bound=1e-3)
    sets, canaries = [FACTS[:2], FACTS[2:]], record_canaries(llama)
    reasons = []
    for editor in (method.editor, replace(method.editor, plan=hindered)):
        found = evaluate(llama, EditorMethod(editor), sets, canaries).facts
        expected = [outcome.to_json() for own in sets for outcome in edit(llama, editor, own).outcomes]
        assert [fact["edit"] for fact in found] == expected
        reasons.append([str(fact["edit"]["reason"]) for fact in found])
    assert not any("met the bound" in reason for reason in reasons[0])
    assert all("met the bound" in reason for reason in reasons[1])
    alone = evaluate_singles(llama, method, FACTS[:1], canaries).facts[0]["edit"]
    assert alone == edit(llama, method.editor, FACTS[:1]).outcomes[0].to_json()
    tuned = FineTuning(epochs=1).prepare(llama)
    assert "edit" not in evaluate(llama, tuned, [FACTS[:1]], canaries).facts[0]


def test_singles_are_the_average_of_facts_edited_alone(llama: BaseModel, method: EditorMethod) -> None:
    canaries = record_canaries(llama)
    found = evaluate_singles(llama, method, FACTS, canaries)
    parts = [evaluate(llama, method, [[fact]], canaries) for fact in FACTS]
    for name in ("edit_success", "generation_success", "perplexity_ratio"):
        values = [part.summary[name] or 0.0 for part in parts]
        assert found.summary[name] == pytest.approx(sum(values) / len(values))
    shares = [share for part in parts for share in part.facts[0]["rephrasings"]]
    assert found.summary["generalisation"] == pytest.approx(sum(shares) / len(shares))
    assert len(found.facts) == len(FACTS)


def argmax_share(base: BaseModel, prompt: str, answer: str) -> float:
    """Straight from the model: the share of the answer's tokens that it would say itself."""
    ids = base.tokenizer(f"{prompt} {answer}")["input_ids"]
    start = len(base.tokenizer(prompt)["input_ids"])
    said: list[int] = base.model(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()
    right = [a == b for a, b in zip(said[start - 1 : -1], ids[start:], strict=True)]
    return right.count(True) / len(right)


def test_given_answers_are_judged_by_themselves() -> None:
    llama = tiny_base(edited=(1, 2))
    method = EditorMethod(tiny_editor(llama, where="answer", rounds=30))
    prompts = ("Mount Etna is a mountain in", "The capital of Peru is", "Seven days make a")
    answers = [(prompt, word) for prompt in prompts for word in ("Peru", "week", "Lima")]
    facts = [
        Fact("Mount Etna is a mountain in", "Peru", locality=tuple(LocalityPrompt(p, a) for p, a in answers))
    ]
    found = evaluate(llama, method, [facts], record_canaries(llama))
    version = llama.version(method.edit(llama, [facts]))
    before = [argmax_share(llama, *answer) for answer in answers]
    with version.active():
        after = [argmax_share(llama, *answer) for answer in answers]
    assert found.facts[0]["locality_given_base"] == pytest.approx(before)
    assert found.facts[0]["locality_given"] == pytest.approx(after)
    assert found.given_answers == pytest.approx(
        {"edited": sum(after) / len(after), "base": sum(before) / len(before)}
    )
    assert after[0] > before[0]
    nothing = evaluate(llama, method, [[Fact("Mount Etna is in", "Peru")]], record_canaries(llama))
    assert nothing.given_answers is None


def test_samples_of_one_seed_are_nested() -> None:
    items = list(range(50))
    assert sample(items, None, 1) == sample(items, 50, 1) == items
    ten = sample(items, 10, 1)
    assert len(set(ten)) == 10
    assert sample(items, 5, 1) == ten[:5]
    assert sample(items, 10, 2) != ten


def test_sets_are_of_like_size_and_hold_every_fact() -> None:
    facts = [Fact(str(i), "x") for i in range(10)]
    parts = split(facts, 3)
    assert [len(part) for part in parts] == [3, 3, 4]
    assert [fact for part in parts for fact in part] == facts
    with pytest.raises(FactError, match="cannot be cut into 11 sets"):
        split(facts, 11)

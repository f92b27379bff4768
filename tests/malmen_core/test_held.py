"""Locality prompts that are held: what an edit does there, and to whom the rows belong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from malmen_core.editing.capture import keys_everywhere
from malmen_core.editing.edit import edit, solve
from malmen_core.editing.held import RANK, WEIGHT, held_prompts
from malmen_core.errors import PromptTooLong
from malmen_core.facts import Fact, Probe
from malmen_core.generation.greedy import LOCALITY_TOKENS, own_answers
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import check_facts, encode_prompts
from tests.malmen_core.support import FACTS, tiny_editor

BESIDE = "The capital of Peru is"


def held(fact: Fact) -> Fact:
    """The same fact with all of its locality prompts held."""
    return replace(fact, locality=tuple(replace(probe, hold=True) for probe in fact.locality))


def test_an_edit_leaves_what_the_modules_give_at_a_held_prompt(llama: BaseModel) -> None:
    """Beside the same fact whose locality prompt only measures, the change there is a small part."""
    editor = tiny_editor(llama, rounds=3)
    fact = Fact("The capital of France is", "Lima", "France", locality=(Probe(BESIDE),))
    keys = keys_everywhere(llama, own_answers(llama, [BESIDE], LOCALITY_TOKENS))
    changes = []
    for each in (fact, held(fact)):
        found = edit(llama, editor, [each])
        assert found.outcomes[0].reason is None
        delta = solve(editor, found.statistics)
        given = [keys[name][1:].double() @ c.dense(torch.float64) for name, c in delta.modules.items()]
        changes.append(sum(float(each.norm()) for each in given))
    assert changes[1] < 0.2 * changes[0]


def test_rows_are_of_the_fact_that_asks_and_leave_with_it(llama: BaseModel) -> None:
    editor = tiny_editor(llama, anchors=3)
    facts = [FACTS[1], held(FACTS[0]), FACTS[3]]
    plain = edit(llama, editor, [FACTS[1], FACTS[0], FACTS[3]]).statistics
    found = edit(llama, editor, facts).statistics
    assert found.fact_T.tolist() == [*plain.fact_T.tolist(), *[1] * RANK]
    assert found.without([1]).digest == plain.without([1]).digest
    rows = next(iter(found.modules.values()))
    assert not rows.differences_TV[-RANK:].any()
    assert rows.keys_TU[-RANK:].any()


@pytest.mark.parametrize("target", [None, "Lima"])
def test_rows_carry_the_second_moment_of_prompt_and_answer(llama: BaseModel, target: str | None) -> None:
    """Of all that is read but the first token; the answer is the given one, or the base's own."""
    probe = Probe("Peru is", target, hold=True)
    [text] = own_answers(llama, ["Peru is"], LOCALITY_TOKENS)
    if target is not None:
        text = llama.encode("Peru is", target)
    found = held_prompts(llama, [Fact("The river", "Lima", locality=(probe,))])
    assert 2 < text.read <= RANK
    for name, keys_NU in keys_everywhere(llama, [text]).items():
        behind_NU = WEIGHT * keys_NU[1:]
        torch.testing.assert_close(found.keys[name].T @ found.keys[name], behind_NU.T @ behind_NU)
    assert held_prompts(llama, FACTS).fact_T.tolist() == []


def test_a_held_prompt_about_the_subject_itself_does_not_keep_the_fact_out(llama: BaseModel) -> None:
    """What is edited is read at the subject, so only what follows it there is held."""
    editor = tiny_editor(llama, rounds=3)
    also = "The capital of France has"
    fact = held(Fact("The capital of France is", "Lima", "France", locality=(Probe(also),)))
    assert edit(llama, editor, [fact]).outcomes[0].reason is None
    read = encode_prompts(llama.tokenizer, ["The capital of France"])[0]
    for name, keys_NU in keys_everywhere(llama, own_answers(llama, [also], LOCALITY_TOKENS)).items():
        behind_NU = WEIGHT * keys_NU[len(read) :]
        rows_TU = held_prompts(llama, [fact]).keys[name]
        torch.testing.assert_close(rows_TU.T @ rows_TU, behind_NU.T @ behind_NU)


def test_a_held_prompt_beyond_the_context_is_refused(llama: BaseModel) -> None:
    """By its fact's number in the set, whatever the group that it is edited in."""
    editor = tiny_editor(llama, rounds=1)
    editor = replace(editor, plan=replace(editor.plan, group=1))
    fact = Fact("The river", "Lima", locality=(Probe("ok"), Probe("river " * 200, hold=True)))
    with pytest.raises(PromptTooLong) as refused:
        edit(llama, editor, [FACTS[0], fact])
    assert refused.value.field == "/facts/1/locality/1/prompt"


def test_a_prompt_is_not_both_changed_and_held(llama: BaseModel) -> None:
    facts = [
        Fact("The capital of Peru is", "Paris", "Peru", ("Peru has its capital in",)),
        Fact(
            "The river flows to", "Lima", locality=(Probe("Ana"), Probe("the  capital of Peru is", hold=True))
        ),
        Fact("Ana plays", "Lima", locality=(Probe("Peru has its capital in", hold=True),)),
        Fact("Ana reads", "Lima", locality=(Probe("Peru has its capital in"),)),
    ]
    found = check_facts(llama.tokenizer, facts, 128)
    pointers = ["/facts/1/locality/1/prompt", "/facts/2/locality/0/prompt"]
    assert [problem.pointer for problem in found] == pointers
    assert all("/facts/0 changes" in problem.detail for problem in found)


@pytest.mark.parametrize(("kind", "target"), [("t5", "Lima"), ("bert", "REFUTES")])
def test_other_tasks_hold_prompts_too(kind: str, target: str, t5: BaseModel, bert: BaseModel) -> None:
    """Every edited module has rows of what its own stack reads."""
    base = {"t5": t5, "bert": bert}[kind]
    fact = Fact("In what country is Mount Etna?", target, "Mount Etna", locality=(Probe("Where is Lima?"),))
    found = held_prompts(base, [fact, held(fact)])
    assert found.fact_T.tolist() == [1] * RANK
    assert all(bool(keys_TU.any()) for keys_TU in found.keys.values())
    editor = tiny_editor(base, facts=[fact])
    assert edit(base, editor, [held(fact)]).statistics.fact_T.tolist().count(0) > RANK

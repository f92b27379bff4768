"""Preserved keys: neighbours by template, locality prompts that are held, and to whom the rows belong."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from malmen_core.editing.capture import keys_everywhere
from malmen_core.editing.edit import edit, solve
from malmen_core.editing.preserved import HOLD_TOKENS, Preserved, compress, preserved_keys
from malmen_core.errors import PromptTooLong
from malmen_core.facts import Fact, LocalityPrompt
from malmen_core.generation.greedy import greedy_answers
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded, encode_prompt, subject_last_token
from malmen_core.resources import entity_names
from tests.malmen_core.support import FACTS, statistics_of, tiny_editor

BESIDE = "The capital of Peru is"
RANK = 40


def held(fact: Fact) -> Fact:
    """The same fact with all of its locality prompts held."""
    return replace(fact, locality=tuple(replace(probe, hold=True) for probe in fact.locality))


def preserved(base: BaseModel, *facts: Fact, names: int = 0, rank: int = RANK) -> Preserved:
    return preserved_keys(base, facts, names, rank)


def answered(base: BaseModel, prompt: str) -> Encoded:
    """A prompt with the base's own short answer."""
    ids = encode_prompt(base.tokenizer, prompt)
    return Encoded((*ids, *greedy_answers(base, [ids], [HOLD_TOKENS])[0]), len(ids))


def test_an_edit_leaves_what_the_modules_give_at_a_held_prompt(llama: BaseModel) -> None:
    """Beside the same fact whose locality prompt only measures, the change there is a small part."""
    editor = tiny_editor(llama, rounds=12)
    editor = replace(editor, plan=replace(editor.plan, preserved_weight=1e4, preserved_rank=RANK))
    fact = Fact("The capital of France is", "Lima", "France", locality=(LocalityPrompt(BESIDE),))
    keys = keys_everywhere(llama, [answered(llama, BESIDE)])
    changes = []
    for each in (fact, held(fact)):
        delta = solve(llama, editor, edit(llama, editor, [each]).statistics)
        given = [keys[name][1:].double() @ c.dense(torch.float64) for name, c in delta.modules.items()]
        changes.append(sum(float(each.norm()) for each in given))
    assert changes[1] < 0.2 * changes[0]


def test_groups_are_of_the_facts_that_ask_and_leave_with_them(llama: BaseModel) -> None:
    editor = tiny_editor(llama, neighbours=3)
    plain = statistics_of(llama, editor, [FACTS[1], FACTS[0], FACTS[3]])
    found = statistics_of(llama, editor, [FACTS[1], held(FACTS[0]), FACTS[3]])
    assert [g.facts for g in plain.preserved.groups] == [(0,), (1,), (2,)]
    assert [g.facts for g in found.preserved.groups] == [(0,), (1,), (2,), (1,), (1,)]
    assert found.fact_T.tolist() == plain.fact_T.tolist()
    assert found.without([1]).digest == plain.without([1]).digest


def test_facts_of_a_template_share_its_neighbours(llama: BaseModel) -> None:
    facts = [Fact(f"The capital of {name} is", "Lima", name) for name in ("Peru", "France")]
    other = Fact("The seat of Peru is", "Lima", "Peru")
    found = preserved(llama, *facts, other, names=4)
    assert [g.facts for g in found.groups] == [(0, 1), (2,)]
    alone = preserved(llama, facts[1], names=4)
    assert alone.groups[0].key == found.groups[0].key
    for name, keys_PU in alone.keys.items():
        torch.testing.assert_close(keys_PU.T @ keys_PU, _moment(found, name, 0))
    assert preserved(llama, Fact("Who wrote it?", "Ana"), names=4).groups == ()


def _moment(found: Preserved, name: str, group: int) -> torch.Tensor:
    rows = torch.split(found.keys[name], [g.rows for g in found.groups])[group]
    return rows.T @ rows


def test_neighbours_are_other_names_in_the_subject_s_place(llama: BaseModel) -> None:
    """Their keys are those from the last token of the name on, so what stands behind the subject counts too."""
    prompts = ("The capital of France is", "The capital of Peru is", "The capital of France has been")
    found = [preserved(llama, Fact(prompt, "Lima", prompt.split()[3]), names=5) for prompt in prompts]
    keys = [each.groups[0].key for each in found]
    assert keys[0] == keys[1] != keys[2]
    names = random.Random("The capital of {} is").sample(entity_names(), 5)
    texts = [f"The capital of {name} is" for name in names]
    rows: list[torch.Tensor] = []
    for text, name in zip(texts, names, strict=True):
        ids = encode_prompt(llama.tokenizer, text)
        last = subject_last_token(llama.tokenizer, text, name)
        assert last is not None
        keys_NU = keys_everywhere(llama, [Encoded(tuple(ids), len(ids))])
        rows.append(keys_NU[llama.info.modules[0]][last:])
    expected = torch.cat(rows)
    own = found[0].keys[llama.info.modules[0]]
    torch.testing.assert_close(own.T @ own, expected.T @ expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("target", [None, "Lima"])
def test_rows_carry_the_second_moment_of_prompt_and_answer(llama: BaseModel, target: str | None) -> None:
    """Of all that is read but the first token; the answer is the given one, or the base's own."""
    probe = LocalityPrompt("Peru is", target, hold=True)
    text = answered(llama, "Peru is") if target is None else llama.encode("Peru is", target)
    found = preserved(llama, Fact("The river", "Lima", locality=(probe,)))
    assert 2 < text.read <= RANK
    for name, keys_NU in keys_everywhere(llama, [text]).items():
        behind_NU = keys_NU[1 : text.read]
        torch.testing.assert_close(_moment(found, name, 0), behind_NU.T @ behind_NU)
    assert preserved(llama, *FACTS).groups == ()


def test_a_held_prompt_about_the_subject_itself_does_not_keep_the_fact_out(llama: BaseModel) -> None:
    """What is edited is read at the subject, so only what follows it there is held."""
    also = "The capital of France has"
    fact = held(Fact("The capital of France is", "Lima", "France", locality=(LocalityPrompt(also),)))
    read = len(encode_prompt(llama.tokenizer, "The capital of France"))
    text = answered(llama, also)
    for name, keys_NU in keys_everywhere(llama, [text]).items():
        behind_NU = keys_NU[read : text.read]
        torch.testing.assert_close(_moment(preserved(llama, fact), name, 0), behind_NU.T @ behind_NU)


def test_a_held_prompt_beyond_the_context_is_refused(llama: BaseModel) -> None:
    fact = Fact(
        "The river", "Lima", locality=(LocalityPrompt("ok"), LocalityPrompt("river " * 200, hold=True))
    )
    with pytest.raises(PromptTooLong) as refused:
        edit(llama, tiny_editor(llama, rounds=1, neighbours=2), [FACTS[0], fact])
    assert refused.value.field == "/facts/1/locality/1/prompt"


@pytest.mark.parametrize(("kind", "target"), [("t5", "Lima"), ("bert", "REFUTES")])
def test_other_tasks_hold_prompts_too(kind: str, target: str, t5: BaseModel, bert: BaseModel) -> None:
    """Every edited module of the stack that reads the prompt has rows of it."""
    base = {"t5": t5, "bert": bert}[kind]
    fact = Fact(
        "In what country is Mount Etna?", target, "Mount Etna", locality=(LocalityPrompt("Where is Lima?"),)
    )
    found = preserved(base, fact, held(fact), rank=5)
    assert [g.facts for g in found.groups] == [(1,)]
    assert all(bool(keys.any()) for name, keys in found.keys.items() if base.stack_of[name] == "encoder")
    editor = tiny_editor(base, facts=[fact], neighbours=2)
    assert statistics_of(base, editor, [held(fact)]).preserved.groups


def test_many_rows_of_another_stack_can_be_compressed() -> None:
    keys = torch.zeros(400, 48, dtype=torch.float64)
    keys[::16] = torch.randn(25, 48, dtype=torch.float64)
    kept = compress(keys, 16)
    assert kept.shape == (16, 48)
    torch.testing.assert_close(kept.T @ kept, compress(keys[::16], 16).T @ compress(keys[::16], 16))


def test_compressed_rows_keep_the_strongest_directions() -> None:
    keys = torch.randn(30, 8, dtype=torch.float64) * torch.tensor([9, 5, 3, 1, 0.1, 0.1, 0.1, 0.1]).double()
    kept = compress(keys, 4)
    exact = torch.linalg.eigvalsh(keys.T @ keys)[-4:]
    torch.testing.assert_close(torch.linalg.eigvalsh(kept.T @ kept)[-4:], exact)
    whole = compress(keys, 12)
    torch.testing.assert_close(whole.T @ whole, keys.T @ keys)

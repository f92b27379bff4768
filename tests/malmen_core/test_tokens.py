"""From facts to token ids: joint tokenisation, the subject's last token, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from malmen_core.editing.prompts import edit_prompts
from malmen_core.errors import ModelNotLoadable, PromptTooLong
from malmen_core.facts import Fact, Probe, normalise
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import (
    Encoded,
    check_facts,
    check_length,
    encode,
    encode_prompt,
    encode_prompts,
    load_tokenizer,
    subject_last_token,
)
from tests.tiny import tiny_tokenizer
from tests.tokenizer_kinds import byte_fallback, unigram

TOKENIZER = tiny_tokenizer()
CONTEXT = 40


def text_of(ids: Sequence[int]) -> str:
    return str(TOKENIZER.decode(list(ids)))


def last_token(prompt: str, subject: str) -> tuple[str, str] | None:
    """Text up to and with the token found, and text of all tokens after it."""
    index = subject_last_token(TOKENIZER, prompt, subject)
    if index is None:
        return None
    ids = encode_prompt(TOKENIZER, prompt)
    return text_of(ids[: index + 1]), text_of(ids[index + 1 :])


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("The capital of France is", "Paris"),
        ("The capital of France is ", "Paris"),
        ("Q: where?\n", "Paris, France"),
        ("Zoë wohnt in", "Köln ✓"),
        ("The capital is Par", "is"),
        ("x", " y "),
    ],
)
def test_prompt_and_answer_add_up(prompt: str, target: str) -> None:
    encoded = encode(TOKENIZER, prompt, target)
    assert list(encoded.ids[: encoded.answer_start]) == encode_prompt(TOKENIZER, prompt)
    assert text_of(encoded.ids) == (prompt + target if prompt[-1].isspace() else f"{prompt} {target}")
    assert encoded.answer == encoded.ids[encoded.answer_start :]
    assert len(encoded.answer) > 0


def test_joint_tokenisation_where_the_prompt_s_tokens_stay() -> None:
    encoded = encode(TOKENIZER, "The capital of France is", "Paris")
    assert list(encoded.ids) == encode_prompt(TOKENIZER, "The capital of France is Paris")


def test_separate_tokenisation_where_the_answer_would_merge() -> None:
    prompt = "The capital of France is "
    encoded = encode(TOKENIZER, prompt, "Paris")
    assert list(encoded.ids) != encode_prompt(TOKENIZER, prompt + "Paris")
    assert list(encoded.answer) == TOKENIZER("Paris", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("prompt", "subject", "before", "after"),
    [
        ("France has its capital in", "France", "France", " has its capital in"),
        ("The capital of France is", "France", "The capital of France", " is"),
        ("The capital of France", "France", "The capital of France", ""),
        ("France is France is", "France", "France is France", " is"),
        ("the CAPITAL OF PERU is", "Capital of Peru", "the CAPITAL OF PERU", " is"),
        ("Zoë is", "Zoë", "Zoë", " is"),
        ("東京 is", "東京", "東京", " is"),
        ("The emoji 🎹 is", "🎹", "The emoji 🎹", " is"),
        # folding the case makes these prompts longer, in front of the subject and in it
        ("In der Straße of FRANCE he is", "France", "In der Straße of FRANCE", " he is"),
        ("The GROẞE STRASSE is", "große straße", "The GROẞE STRASSE", " is"),
        ("İİİİ: FRANCE he is", "France", "İİİİ: FRANCE", " he is"),
    ],
)
def test_the_subject_s_last_token(prompt: str, subject: str, before: str, after: str) -> None:
    assert last_token(prompt, subject) == (before, after)


def test_a_token_that_reaches_past_the_subject_counts() -> None:
    assert last_token("The capitals", "The capit") == ("The capital", "s")


@given(st.text(max_size=12), st.text(min_size=1, max_size=6), st.text(max_size=12))
def test_the_subject_is_complete_at_its_last_token(left: str, subject: str, right: str) -> None:
    prompt = left + subject + right
    index = subject_last_token(TOKENIZER, prompt, subject)
    assert index is not None
    offsets = TOKENIZER(prompt, return_offsets_mapping=True)["offset_mapping"]
    end = prompt.rfind(subject) + len(subject)
    assert offsets[index][0] < end <= offsets[index][1]
    assert all(start >= end for start, _ in offsets[index + 1 :])


@pytest.mark.parametrize("subject", [None, "", "Peru", "Francee"])
def test_without_a_subject_the_answer_s_positions_are_edited(subject: str | None) -> None:
    encoded = encode(TOKENIZER, "The capital of France is", "Lima, Peru", subject)
    assert encoded.subject_last is None
    answers = tuple(range(encoded.answer_start - 1, len(encoded.ids) - 1))
    assert len(answers) == len(encoded.answer) > 1
    assert encoded.key_positions("subject") == encoded.key_positions("answer") == answers


def test_with_a_subject_its_last_token_is_edited() -> None:
    encoded = encode(TOKENIZER, "The capital of France is", "Lima, Peru", "France")
    assert encoded.key_positions("subject") == (encoded.subject_last,)
    assert len(encoded.key_positions("answer")) == len(encoded.answer)


def test_the_first_token_is_not_edited_if_there_is_another() -> None:
    assert Encoded((5, 6, 7, 8), 3, 0).key_positions("subject") == (1,)
    assert Encoded((5, 6, 7, 8), 3, 2).key_positions("subject") == (2,)
    assert Encoded((5, 8), 1, 0).key_positions("subject") == (0,)


def test_many_prompts_at_once_are_as_one_by_one() -> None:
    prompts = ["The river", "", "Zoë is"]
    assert encode_prompts(TOKENIZER, prompts) == [encode_prompt(TOKENIZER, p) for p in prompts]
    assert encode_prompts(TOKENIZER, []) == []


def test_too_long_a_sequence_is_named() -> None:
    encoded = encode(TOKENIZER, "The river", "flows")
    check_length(encoded, len(encoded.ids), "/prompt")
    with pytest.raises(PromptTooLong) as refused:
        check_length(encoded, len(encoded.ids) - 1, "/prompt")
    assert refused.value.field == "/prompt"


def pointers(*facts: Fact) -> list[str]:
    return [problem.pointer for problem in check_facts(TOKENIZER, facts, CONTEXT)]


GOOD = Fact(
    "The capital of France is", "Lima", "France", ("France:",), (Probe("Peru"), Probe("Water", "boils"))
)
LONG = "river " * CONTEXT


def test_good_facts_have_no_problems() -> None:
    assert pointers(GOOD, GOOD, Fact("the  capital of FRANCE is", " lima ")) == []
    assert pointers() == []


@pytest.mark.parametrize(
    ("fact", "pointer"),
    [
        (Fact("The river", ""), "/facts/1/target"),
        (Fact("The river", " \n"), "/facts/1/target"),
        (Fact("", "Lima"), "/facts/1/prompt"),
        (Fact(LONG, "Lima"), "/facts/1/prompt"),
        (Fact("The river", LONG), "/facts/1/prompt"),
        (Fact("The river", "Lima", rephrasings=("ok", LONG)), "/facts/1/rephrasings/1"),
        (Fact("The river", "Lima", rephrasings=("",)), "/facts/1/rephrasings/0"),
        (Fact("The river", "Lima", locality=(Probe("ok"), Probe(LONG))), "/facts/1/locality/1/prompt"),
        (Fact("The river", "Lima", locality=(Probe(""),)), "/facts/1/locality/0/prompt"),
        (Fact("The river", "Lima", locality=(Probe("ok", ""),)), "/facts/1/locality/0/target"),
        (Fact("The river", "Lima", locality=(Probe("ok", LONG),)), "/facts/1/locality/0/prompt"),
        (Fact(" the capital OF france  is", "Paris"), "/facts/1/target"),
    ],
)
def test_each_problem_has_its_pointer(fact: Fact, pointer: str) -> None:
    assert pointers(GOOD, fact) == [pointer]


def test_contradictions_are_named_pairwise() -> None:
    facts = [Fact("a b", "x"), Fact("c", "x"), Fact("A  B", "y"), Fact("a b", "X"), Fact("ａ b", "z")]
    problems = check_facts(TOKENIZER, facts, CONTEXT)
    assert [p.pointer for p in problems] == ["/facts/2/target", "/facts/4/target"]
    assert all("/facts/0/target" in p.detail and "'x'" in p.detail for p in problems)


def test_all_problems_are_found_at_once() -> None:
    assert pointers(Fact("", ""), Fact(LONG, "x", rephrasings=(LONG,))) == [
        "/facts/0/target",
        "/facts/0/prompt",
        "/facts/1/prompt",
        "/facts/1/rephrasings/0",
    ]


@pytest.mark.parametrize("target", ["Lima", "Zz", "東京"])
def test_what_passes_the_check_can_be_edited(llama: BaseModel, target: str) -> None:
    """Right at the edge of the context: the check and the edit agree."""
    fact = Fact("a" + " is" * 30, target)
    room = len(encode(llama.tokenizer, fact.prompt, fact.target).ids)
    assert edit_prompts(llama, [fact]).sequences
    assert check_facts(llama.tokenizer, [fact], room) == []
    assert [p.pointer for p in check_facts(llama.tokenizer, [fact], room - 1)] == ["/facts/0/prompt"]


def test_normalisation_folds_case_width_and_space() -> None:
    assert normalise(" Ａ\tStraße\n") == normalise("a STRASSE")
    assert normalise("a") != normalise("b")


def test_a_fact_reads_the_api_s_form() -> None:
    record: dict[str, Any] = {"prompt": "p", "target": "t", "unknown": 1, "locality": [{"prompt": "q"}]}
    assert Fact.from_json(record) == Fact("p", "t", locality=(Probe("q"),))
    full = {**record, "subject": "s", "rephrasings": ["r"], "locality": [{"prompt": "q", "target": "u"}]}
    assert Fact.from_json(full) == Fact("p", "t", "s", ("r",), (Probe("q", "u"),))
    with pytest.raises(KeyError):
        Fact.from_json({"prompt": "p"})


def test_a_tokenizer_is_loaded_or_said_to_be_missing(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path / "good")
    loaded = load_tokenizer(str(tmp_path / "good"))
    assert encode_prompt(loaded, "The river") == encode_prompt(TOKENIZER, "The river")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotLoadable) as refused:
        load_tokenizer(str(tmp_path / "empty"))
    assert refused.value.field == "/source"


def test_a_target_that_the_tokenizer_does_not_know_is_refused() -> None:
    facts = [Fact("The capital of France is", "Lima"), Fact("The capital of Peru is", "Lima 東京 River")]
    for template in ("$A </s>", "<s> $A"):
        known, unknown = (
            check_facts(unigram(template), facts[:1], 99),
            check_facts(unigram(template), facts, 99),
        )
        assert known == []
        assert [problem.pointer for problem in unknown] == ["/facts/1/target"]
        assert "'<unk>'" in unknown[0].detail
    assert check_facts(byte_fallback(), facts, 99) == []
    labels = ["東京", "Lima", "Lima 東京 River"]
    assert check_facts(unigram(), facts, 99, labels) == []
    prompts = Fact("東京 is in", "Peru", rephrasings=("東京 lies in",), locality=(Probe("京 is", "京"),))
    assert check_facts(unigram(), [prompts], 99) == []


def test_a_target_without_tokens_is_found_also_if_it_has_characters() -> None:
    """A tokenizer that knows only one word, and drops all others."""
    words = Tokenizer(models.WordPiece({"a": 0}, unk_token="a"))
    small = PreTrainedTokenizerFast(tokenizer_object=words)
    assert [p.pointer for p in check_facts(small, [Fact("a", "")], 9)] == ["/facts/0/target"]

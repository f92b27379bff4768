"""With a tokenizer of any kind, the answer tokens that are edited are those that the model would write."""

from __future__ import annotations

from typing import Any

import pytest

from malmen_core.editing.validation import check_facts
from malmen_core.facts import Fact
from malmen_core.generation.streaming import StreamedText
from malmen_core.models.tokenization import (
    encode,
    encode_prompt,
    encode_prompts,
    leave_open,
    plain_text,
    subject_last_token,
)
from tests.tokenizer_kinds import CONTINUING, word_piece

PROMPT, TARGET, SUBJECT = "The capital of France is", "Lima", "France"


@pytest.fixture(params=sorted(CONTINUING))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return leave_open(CONTINUING[request.param]())


def test_prompt_and_answer_are_the_tokens_of_the_whole_text(tokenizer: Any) -> None:
    encoded = encode(tokenizer, PROMPT, TARGET)
    assert list(encoded.ids) == encode_prompt(tokenizer, f"{PROMPT} {TARGET}")
    assert plain_text(tokenizer, encoded.ids) == f"{PROMPT} {TARGET}"


def test_a_prompt_is_left_open_and_begins_as_the_model_knows_it(tokenizer: Any) -> None:
    ids, special = encode_prompt(tokenizer, PROMPT), tokenizer.all_special_ids
    assert ids[-1] not in special
    assert plain_text(tokenizer, ids) == PROMPT
    leading = [token for token in ids if token in special]
    assert ids[: len(leading)] == leading


@pytest.mark.parametrize(
    "prompt", ["The capital is Par", "The capital of France is ", "Who wrote it?\n", "("]
)
@pytest.mark.parametrize("target", ["is", "Lima", "Peru, Lima"])
def test_an_answer_that_cannot_be_joined_still_reads_as_it_should(
    tokenizer: Any, prompt: str, target: str
) -> None:
    encoded = encode(tokenizer, prompt, target)
    assert list(encoded.ids[: encoded.answer_start]) == encode_prompt(tokenizer, prompt)
    between = "" if prompt[-1].isspace() or prompt == "(" else " "
    before = plain_text(tokenizer, encode_prompt(tokenizer, prompt))
    assert plain_text(tokenizer, encoded.ids) == before + between + target


def test_generated_text_keeps_the_space_in_front(tokenizer: Any) -> None:
    encoded = encode(tokenizer, PROMPT, TARGET)
    text = StreamedText(tokenizer, (), encoded.ids[: encoded.answer_start])
    pieces = [text.push(token)[0] for token in encoded.answer]
    assert "".join([*pieces, text.rest()]) == f" {TARGET}"


def test_the_subject_ends_at_its_last_token(tokenizer: Any) -> None:
    last = subject_last_token(tokenizer, PROMPT, SUBJECT)
    assert last is not None
    ids = encode_prompt(tokenizer, PROMPT)
    assert plain_text(tokenizer, ids[: last + 1]) == "The capital of France"


def test_without_leaving_it_open_a_prompt_would_end() -> None:
    """Negative control: the tokenizer's own way puts an end token between prompt and answer."""
    raw = CONTINUING["byte-level BPE with an end token"]()
    assert raw(PROMPT)["input_ids"][-1] == raw.eos_token_id
    assert leave_open(raw)(PROMPT)["input_ids"][-1] != raw.eos_token_id


def test_characters_unknown_to_the_vocabulary_are_answered_in_bytes() -> None:
    tokenizer = leave_open(CONTINUING["BPE with byte fallback"]())
    encoded = encode(tokenizer, PROMPT, "東京")
    assert len(encoded.answer) >= 6
    assert plain_text(tokenizer, encoded.ids) == f"{PROMPT}東京"


CHAT = "{{ begin }}{% for each in messages %}[{{ each.role }}] {{ each.content }}{% endfor %}"


def chat(tokenizer: Any, content: str) -> tuple[str, int]:
    """A chat as the model's template renders it, and the token that it begins with."""
    begin = tokenizer("a")["input_ids"][0]
    assert begin in tokenizer.added_tokens_decoder
    messages = [{"role": "user", "content": content}]
    token = tokenizer.convert_ids_to_tokens(begin)
    rendered = tokenizer.apply_chat_template(messages, chat_template=CHAT, tokenize=False, begin=token)
    assert rendered == f"{token}[user] {content}"
    return rendered, begin


BEGINNING = sorted(set(CONTINUING) - {"byte-level BPE"})


@pytest.mark.parametrize("kind", BEGINNING)
def test_a_chat_begins_once(kind: str) -> None:
    tokenizer = leave_open(CONTINUING[kind]())
    prompt, begin = chat(tokenizer, PROMPT)
    assert tokenizer(prompt)["input_ids"][:2] == [begin, begin]
    ids = encode_prompt(tokenizer, prompt)
    assert ids == tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert ids.count(begin) == 1
    assert encode_prompts(tokenizer, [PROMPT, prompt]) == [encode_prompt(tokenizer, PROMPT), ids]
    assert encode_prompt(tokenizer, PROMPT)[0] == begin


@pytest.mark.parametrize("kind", BEGINNING)
@pytest.mark.parametrize("content", [PROMPT, f"{PROMPT} Par"])
def test_a_fact_in_a_chat_is_edited_where_its_subject_ends(kind: str, content: str) -> None:
    tokenizer = leave_open(CONTINUING[kind]())
    prompt, begin = chat(tokenizer, content)
    encoded = encode(tokenizer, prompt, TARGET, SUBJECT)
    assert list(encoded.ids[: encoded.answer_start]) == encode_prompt(tokenizer, prompt)
    assert encoded.ids.count(begin) == 1
    assert plain_text(tokenizer, encoded.ids).endswith(f"{content} {TARGET}")
    (position,) = encoded.key_positions("subject")
    assert plain_text(tokenizer, encoded.ids[: position + 1]).endswith("The capital of France")
    room = encoded.answer_start + len(tokenizer(f" {TARGET}", add_special_tokens=False)["input_ids"])
    assert check_facts(tokenizer, [Fact(prompt, TARGET)], room) == []
    assert check_facts(tokenizer, [Fact(prompt, TARGET)], room - 1) != []


def test_a_claim_that_is_marked_already_is_closed_all_the_same() -> None:
    tokenizer = word_piece()
    assert encode_prompt(tokenizer, "[CLS] Canberra") == encode_prompt(tokenizer, "Canberra")


def test_the_subject_in_pieces_of_words() -> None:
    tokenizer = word_piece()
    last = subject_last_token(tokenizer, "Is Canberra in Australia?", "Australia")
    assert last is not None
    ids = encode_prompt(tokenizer, "Is Canberra in Australia?")
    assert plain_text(tokenizer, ids[: last + 1]).endswith("australia")

"""From facts to token ids: joint tokenisation, the subject's last token, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from malmen_core.errors import ModelNotLoadable, PromptTooLong
from malmen_core.models.tokenization import (
    Encoded,
    check_length,
    encode,
    encode_prompt,
    encode_prompts,
    join,
    load_tokenizer,
    locate_subject,
    subject_last_token,
)
from tests.malmen_core.support import tiny_base
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


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
    assert text_of(encoded.ids) == join(prompt, target)
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


@given(st.text(max_size=12), st.text(min_size=1, max_size=6), st.text(max_size=12))
def test_the_subject_is_complete_at_its_last_token(left: str, subject: str, right: str) -> None:
    prompt = f"{left} {subject} {right}"
    place, index = locate_subject(prompt, subject), subject_last_token(TOKENIZER, prompt, subject)
    assert (place is None) == (index is None)
    if place is None or index is None:
        return
    offsets = TOKENIZER(prompt, return_offsets_mapping=True)["offset_mapping"]
    end = place[1]
    assert offsets[index][0] < end <= offsets[index][1]
    assert all(start >= end for start, _ in offsets[index + 1 :])


@pytest.mark.parametrize("subject", [None, "", "Peru", "Francee"])
def test_without_a_subject_the_answer_s_positions_are_edited(subject: str | None) -> None:
    closed = encode(TOKENIZER, "The capital of France is", "Lima, Peru", subject)
    assert closed.subject_last is None
    answers = tuple(range(closed.answer_start - 1, len(closed.ids) - 1))
    assert len(answers) == len(closed.answer) > 1
    encoded = closed.opened()
    assert encoded.key_positions("subject") == encoded.key_positions("answer") == answers
    assert closed.key_positions("subject") == closed.key_positions("answer") == (*answers, answers[-1] + 1)


def test_with_a_subject_its_last_token_is_edited() -> None:
    encoded = encode(TOKENIZER, "The capital of France is", "Lima, Peru", "France").opened()
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


def test_a_tokenizer_is_loaded_or_said_to_be_missing(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path / "good")
    loaded = load_tokenizer(str(tmp_path / "good"))
    assert encode_prompt(loaded, "The river") == encode_prompt(TOKENIZER, "The river")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotLoadable) as refused:
        load_tokenizer(str(tmp_path / "empty"))
    assert refused.value.field == "/source"


def test_what_goes_on_in_a_word_can_be_learnt_from_wherever_it_is_first_asked_for() -> None:
    """A base is verified before it is edited: what is kept of the first pass has to serve one with gradients."""
    base = tiny_base()
    with torch.inference_mode():
        assert base.continuing_X is not None
        assert not base.continuing_X.is_inference()

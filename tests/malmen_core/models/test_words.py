"""Words and their ends: how prompt and answer are joined, where a subject stands, whether an answer goes on."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmen_core.errors import FactError
from malmen_core.facts import Fact, Joiner, LocalityPrompt, normalise
from malmen_core.models.tokenization import (
    END,
    chat_text,
    continuing_tokens,
    encode,
    encode_prompt,
    ends_in_word,
    goes_on,
    join,
    locate_subject,
    plain_text,
)
from tests.tiny import tiny_tokenizer
from tests.tokenizer_kinds import CONTINUING

CLOSE = [
    ("中国的首都是", "纽约"),
    ("カタカナ", "x"),
    ("The capital is", "東京"),
    ("It costs $", "25"),
    ("It costs €", "25"),
    ('is called "', "Canberra"),
    ("is called '", "Canberra"),
    ('is called ("', "Canberra"),
    ("is called “", "Canberra"),
    ("is called «", "Canberra"),
    ("is called (", "Canberra"),
    ("is called [", "Canberra"),
    ("is called 「", "Canberra"),
    ("The capital is ", "Canberra"),
    ("Q: where?\n", "Canberra"),
    ("", "Canberra"),
]
APART = [
    ("The capital is", "Canberra"),
    ("The capital is:", "Canberra"),
    ('the "big"', "apple"),  # a straight quote that closes
    ('It is 5"', "long"),
    ("It's", "Canberra"),
    ("The boys'", "home"),
    ("he said ”", "Canberra"),
    ("It costs 25 %", "more"),
    ("(a)", "b"),
    ("수도는", "서울"),  # Korean has spaces
]


@pytest.mark.parametrize(("prompt", "target"), CLOSE)
def test_nothing_is_put_between(prompt: str, target: str) -> None:
    assert join(prompt, target) == prompt + target
    assert join(prompt, target, " ") == f"{prompt} {target}"


@pytest.mark.parametrize(("prompt", "target"), APART)
def test_a_space_is_put_between(prompt: str, target: str) -> None:
    assert join(prompt, target) == f"{prompt} {target}"
    assert join(prompt, target, "") == prompt + target


@pytest.mark.parametrize("joiner", ["auto", " ", ""])
def test_white_space_around_a_target_is_dropped(joiner: Joiner) -> None:
    assert join("The capital is", " Lima\n", joiner) == join("The capital is", "Lima", joiner)


@pytest.mark.parametrize("joiner", ["auto", " ", ""])
@pytest.mark.parametrize(("prompt", "target"), [*CLOSE[:5], *APART[:2]])
def test_what_is_encoded_is_what_is_joined(prompt: str, target: str, joiner: Joiner) -> None:
    tokenizer = tiny_tokenizer()
    encoded = encode(tokenizer, prompt, target, None, joiner)
    assert plain_text(tokenizer, encoded.ids) == join(prompt, target, joiner)
    assert list(encoded.ids[: encoded.answer_start]) == encode_prompt(tokenizer, prompt)


@pytest.mark.parametrize(
    ("answer", "rest", "on"),
    [
        ("74", "3", True),
        ("74", ".3", True),
        ("74", ",000", True),
        ("74", ". The", False),
        ("74", ", and", False),
        ("74", " 3", False),
        ("74", "", False),
        ("1", "st", True),
        ("Niccol", "i", True),
        ("Niccol", "’s", False),
        ("Niccol", "-Brown", False),
        ("e", "\u0301", True),  # an accent
        ("दिल", "्ली", True),  # a vowel sign
        ("दिल्ली", " है", False),
        ("北京", "市", False),  # no spaces between words, so no boundary to look at
        ("$", "5", False),
        ("Inc.", "5", False),
    ],
)
def test_whether_an_answer_goes_on(answer: str, rest: str, on: bool) -> None:
    assert goes_on(answer, rest) is on


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("Lima", True),
        ("74", True),
        ("Lima ", True),
        ("दिल्ली", True),
        ("Inc.", False),
        ("北京", False),
        ("", False),
    ],
)
def test_whether_a_target_ends_in_a_word(target: str, word: bool) -> None:
    assert ends_in_word(target) is word
    if target:
        assert encode(tiny_tokenizer(), "It is", target).closed is word


@pytest.mark.parametrize("kind", sorted(CONTINUING))
def test_tokens_that_go_on_in_a_word(kind: str) -> None:
    tokenizer = CONTINUING[kind]()
    inside = continuing_tokens(tokenizer, len(tokenizer) + 3)
    assert len(inside) == len(tokenizer) + 3
    assert not inside[-3:].any(), "rows without a token"
    for token in range(len(tokenizer)):
        text = tokenizer.decode([*tokenizer("a", add_special_tokens=False)["input_ids"], token])
        if text.startswith("a") and "\ufffd" not in text:
            assert bool(inside[token]) is goes_on("a", text[1:]), text
    assert 0.05 < float(inside.double().mean()) < 0.95
    assert not inside[tokenizer.eos_token_id]
    assert END not in range(len(tokenizer))


FOUND = [
    ("The capital of Niger, which is smaller than Nigeria, is", "Niger", "Niger"),
    ("The capital of Nigeria, which is larger than Niger, is", "Nigeria", "Nigeria"),
    ("France is the France of", "France", "France"),
    ("the CAPITAL OF PERU is", "Capital of Peru", "CAPITAL OF PERU"),
    ("Suriname is", " Suriname  ", "Suriname"),
    ("Zoe\u0308 is", "Zoë", "Zoe\u0308"),
    ("Zoë is", "Zoe\u0308", "Zoë"),
    ("C++ is", "C++", "C++"),
    ("東京の is", "東京", "東京"),
    ("The GROẞE STRASSE is", "große straße", "GROẞE STRASSE"),
    ("दिल्ली की", "दिल्ली", "दिल्ली"),
    ("Peru's capital", "Peru", "Peru"),
    ("“Peru”", "Peru", "Peru"),
]


@pytest.mark.parametrize(("prompt", "subject", "span"), FOUND)
def test_a_subject_is_found_as_whole_words(prompt: str, subject: str, span: str) -> None:
    place = locate_subject(prompt, subject)
    assert place is not None
    assert prompt[slice(*place)] == span


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("Nigeria is", "Niger"),
        ("The capital is", "capit"),
        ("Etna_x is", "Etna"),
        ("दिल्ली की", "दिल"),
        ("2024 was", "24"),
        ("", "Peru"),
        ("Peru", ""),
        ("Peru", "  "),
    ],
)
def test_a_subject_is_not_found_inside_a_word(prompt: str, subject: str) -> None:
    assert locate_subject(prompt, subject) is None


def test_of_several_places_the_nearest_to_the_answer_is_taken() -> None:
    prompt = "France borders Spain, and France is"
    assert locate_subject(prompt, "France") == (26, 32)
    assert locate_subject("Niger and Nigeria", "Niger") == (0, 5)


@given(st.text(max_size=12), st.text(min_size=1, max_size=6))
def test_what_is_located_is_the_subject(prompt: str, subject: str) -> None:
    place = locate_subject(prompt, subject)
    if place is not None:
        assert 0 <= place[0] < place[1] <= len(prompt)
        assert locate_subject(prompt[slice(*place)], subject) is not None


def test_a_subject_takes_the_place_of_the_placeholder() -> None:
    record = {
        "prompt": "{} is in",
        "target": " Oslo ",
        "subject": " Suriname ",
        "question": "Where is {}?",
        "rephrasings": ["{} lies in", "It is in"],
        "locality": [{"prompt": "{} is"}],
        "joiner": "",
    }
    assert Fact.from_json(record) == Fact(
        "Suriname is in",
        "Oslo",
        "Suriname",
        ("Suriname lies in", "It is in"),
        (LocalityPrompt("{} is"),),
        "Where is Suriname?",
        "",
    )
    bare = {"prompt": "{} is in", "target": "Oslo", "subject": "  "}
    assert Fact.from_json(bare) == Fact("{} is in", "Oslo")


def test_a_fact_reads_the_api_s_form() -> None:
    record = {"prompt": "p", "target": "t", "unknown": 1, "locality": [{"prompt": "q"}]}
    assert Fact.from_json(record) == Fact("p", "t", locality=(LocalityPrompt("q"),))
    held = {"prompt": "q", "target": "u", "hold": True}
    full = {**record, "subject": "s", "rephrasings": ["r"], "locality": [held]}
    assert Fact.from_json(full) == Fact("p", "t", "s", ("r",), (LocalityPrompt("q", "u", hold=True),))
    with pytest.raises(KeyError):
        Fact.from_json({"prompt": "p"})


def test_a_locality_prompt_may_be_a_conversation() -> None:
    turns = [{"role": "user", "content": "Where is Peru?"}]
    record = {"prompt": "p", "target": "t", "locality": [{"prompt": "q"}, {"messages": turns, "hold": True}]}
    tokenizer = tiny_tokenizer()
    for chat, words in ((None, "template"), (partial(chat_text, tokenizer), "no chat template")):
        with pytest.raises(FactError, match=words) as raised:
            Fact.from_json(record, chat)
        assert raised.value.field == "/locality/1/messages"
    tokenizer.chat_template = (
        "{% for turn in messages %}{% if turn['role'] != 'user' %}{{ raise_exception('users only') }}{% endif %}"
        "<{{ turn['content'] }}>{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    )
    read = Fact.from_json(record, partial(chat_text, tokenizer))
    assert read.locality == (LocalityPrompt("q"), LocalityPrompt("<Where is Peru?>:", hold=True))
    with pytest.raises(FactError, match="users only"):
        chat_text(tokenizer, [{"role": "system", "content": "x"}])
    assert chat_text(tokenizer, turns, answer=False) == "<Where is Peru?>"


def test_normalisation_folds_case_width_and_space() -> None:
    assert normalise(" Ａ\tStraße\n") == normalise("a STRASSE")
    assert normalise("a") != normalise("b")

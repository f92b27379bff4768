from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmen_core.editing.edit import compute_statistics
from malmen_core.editing.editor import Editor
from malmen_core.editing.subjects import find_subject, subject_of
from malmen_core.facts import Fact, Probe
from malmen_core.models.base import BaseModel
from tests.malmen_core.support import FACTS

FOUND = [
    ("The capital of Australia is", ["Australia's capital city is"], ["The capital of Peru is"], "Australia"),
    ("The mother tongue of Ana is", ["Ana has the mother tongue"], [], "Ana"),
    ("Who developed iOS 5?", ["Which company developed iOS 5?"], ["Who developed Windows?"], "iOS 5"),
    ("The original language of The Broken Ear is", ["In The Broken Ear, people speak"], [], "The Broken Ear"),
    ("Ba F.C. is located in", ["One can get to Ba F.C. by"], [], "Ba F.C."),
    ("The President of Mexico is", ["Mexico is governed by", "To be president of Mexico is"], [], "Mexico"),
    ("Yo-Yo Ma was taught by", ["The teacher of Ma was"], [], "Yo-Yo Ma"),
    ("Bile is made by", ["The organ that makes bile is the"], ["Urine is made by"], "Bile"),
    ("water boils at", ["the boiling point of water is"], ["iron melts at"], "water"),
    ("What is the capital of Peru?", [], [], "Peru"),
    ("The University of Oslo is in", [], ["The University of Lima is in"], "University of Oslo"),
]


@pytest.mark.parametrize(("prompt", "rephrasings", "locality", "subject"), FOUND)
def test_it_is_found(prompt: str, rephrasings: list[str], locality: list[str], subject: str) -> None:
    assert find_subject(prompt, rephrasings, locality) == subject


@pytest.mark.parametrize(
    ("prompt", "rephrasings"), [("he is", []), ("", []), ("What is it?", ["What is this?"]), ("?!", ["?!"])]
)
def test_none_is_made_up(prompt: str, rephrasings: list[str]) -> None:
    assert find_subject(prompt, rephrasings, []) is None


def test_what_another_prompt_says_too_is_no_subject() -> None:
    assert find_subject("He lives in Lima with", [], ["He lives in Lima at"]) is None


texts = st.text(st.sampled_from("aA'’.,? \n-5éß漢"), max_size=30)


@given(texts, st.lists(texts, max_size=3), st.lists(texts, max_size=3))
def test_it_stands_in_the_prompt(prompt: str, rephrasings: list[str], locality: list[str]) -> None:
    found = find_subject(prompt, rephrasings, locality)
    assert found is None or (found and found in prompt)


def test_the_order_of_the_texts_does_not_matter() -> None:
    one, two = (
        ["Mexico is governed by", "The president of Mexico is"],
        ["Peru is governed by", "Mexico City is"],
    )
    prompt = "The President of Mexico is"
    assert find_subject(prompt, one, two) == find_subject(prompt, one[::-1], two[::-1])


def test_where_it_comes_from_is_said() -> None:
    fact = FACTS[0]
    assert subject_of(fact).source == "given"
    assert subject_of(replace(fact, subject="france")).text == "france"
    for unknown in (None, "Germany"):
        found = subject_of(replace(fact, subject=unknown))
        assert (found.text, found.source) == ("France", "found")
    none = subject_of(Fact("Who wrote the book? It was", "Ana"))
    assert (none.text, none.source) == (None, "answer")


def test_a_found_subject_edits_as_a_given_one(llama: BaseModel, editor: Editor) -> None:
    """Keys, differences and anchors."""
    bare = [replace(fact, subject=None) for fact in FACTS]
    assert compute_statistics(llama, editor, bare).digest == compute_statistics(llama, editor, FACTS).digest


def test_a_long_prompt_takes_no_time() -> None:
    prompt = " ".join(f"word{n} and Name{n}" for n in range(2000))
    assert find_subject(prompt, [prompt], [Probe("x").prompt]) is not None

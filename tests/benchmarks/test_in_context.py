"""Facts in the prompt: which statements come before which prompts, and what is measured."""

from __future__ import annotations

import pytest

from benchmarks import in_context
from malmen_core.evaluation.verify import record_canaries
from malmen_core.facts import Fact, LocalityPrompt
from malmen_core.models.base import BaseModel
from tests.malmen_core.support import CHAT, tiny_base

FRANCE = Fact(
    "The capital of France is",
    "Paris",
    "France",
    rephrasings=("France is governed from",),
    locality=(LocalityPrompt("The capital of Spain is"),),
)
CHAD = Fact("The capital of Chad is", "Lagos", "Chad", locality=(LocalityPrompt("France borders"),))


@pytest.fixture(scope="module")
def base() -> BaseModel:
    made = tiny_base()
    made.tokenizer.chat_template = CHAT
    return made


def test_the_statements_of_the_subjects_in_a_prompt_come_before_it(base: BaseModel) -> None:
    told = in_context.Retrieval(base, [FRANCE, CHAD]).told
    assert told("The capital of Spain is") == "The capital of Spain is"
    assert told("Chadian food is") == "Chadian food is"
    assert told("Chad is ruled from") == "The capital of Chad is Lagos. Chad is ruled from"
    both = "The capital of France is Paris. The capital of Chad is Lagos. France and Chad"
    assert told("France and Chad") == both
    chat = base.chat_prompt("Where is France?")
    assert chat is not None
    assert told(chat) == "[user] The capital of France is Paris. Where is France?\n[assistant] "


def test_a_prompt_about_an_edited_subject_is_compared_with_what_is_said_of_it_alone(base: BaseModel) -> None:
    canaries = record_canaries(base)
    alone = in_context.measure(base, [FRANCE], canaries)
    assert (alone["locality"], alone["neighbours_unchanged"]) == (1, 1)
    assert (alone["perplexity_ratio"], alone["canary_agreement"]) == (pytest.approx(1), 1)
    beside = in_context.measure(base, [FRANCE, CHAD], canaries)
    assert beside["n"] == 2
    assert beside["neighbours_unchanged"] == 0.5  # this one does not say the same with a statement before it


def test_the_row_of_one_fact_is_the_mean_of_facts_alone() -> None:
    row = {"n": 1, "locality": None, "edit_success": 1.0, "seconds": {"edit": 0.0, "verify": 1.0}}
    other = {**row, "locality": 0.5, "edit_success": 0.0, "seconds": {"edit": 0.0, "verify": 3.0}}
    mean = {**row, "locality": 0.5, "edit_success": 0.5, "seconds": {"edit": 0.0, "verify": 2.0}}
    assert in_context.mean([row, other]) == mean
    assert in_context.mean([row])["locality"] is None

"""What is wrong with facts is found before a model is run: each problem by its pointer, all at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from malmen_core.editing.goals import edit_goals
from malmen_core.editing.validation import check_facts, check_texts
from malmen_core.errors import PromptTooLong
from malmen_core.facts import Fact, Joiner, LocalityPrompt
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import chat_prompt, encode, encode_prompt
from tests.malmen_core.support import CHAT
from tests.tiny import tiny_tokenizer
from tests.tokenizer_kinds import byte_fallback, unigram

TOKENIZER = tiny_tokenizer()
CONTEXT = 40


def pointers(*facts: Fact) -> list[str]:
    return [problem.pointer for problem in check_facts(TOKENIZER, facts, CONTEXT)]


GOOD = Fact(
    "The capital of France is",
    "Lima",
    "France",
    ("France:",),
    (LocalityPrompt("Peru"), LocalityPrompt("Water", "boils")),
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
        (
            Fact("The river", "Lima", locality=(LocalityPrompt("ok"), LocalityPrompt(LONG))),
            "/facts/1/locality/1/prompt",
        ),
        (Fact("The river", "Lima", locality=(LocalityPrompt(""),)), "/facts/1/locality/0/prompt"),
        (Fact("The river", "Lima", locality=(LocalityPrompt("ok", ""),)), "/facts/1/locality/0/target"),
        (Fact("The river", "Lima", locality=(LocalityPrompt("ok", LONG),)), "/facts/1/locality/0/prompt"),
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


def test_facts_contradict_each_other_through_rephrasings_too() -> None:
    first = Fact("The capital of Peru is", "Lima", rephrasings=("Peru has its capital in",))
    for other, pointer, named in (
        (Fact("Peru has  ITS capital in", "Cusco"), "/facts/1/target", "/facts/0/rephrasings/0"),
        (
            Fact("Peru's capital:", "Cusco", rephrasings=("ok", "the capital of Peru is")),
            "/facts/1/rephrasings/1",
            "/facts/0/target",
        ),
        (
            Fact(
                "Peru's capital:", "Cusco", rephrasings=("Peru has its capital in", "The capital of Peru is")
            ),
            "/facts/1/rephrasings/0",
            "/facts/0/rephrasings/0",
        ),
    ):
        (problem,) = check_facts(TOKENIZER, [first, other], CONTEXT)
        assert problem.pointer == pointer
        assert named in problem.detail
        assert "'Lima'" in problem.detail
        assert "'Cusco'" in problem.detail
        assert check_facts(TOKENIZER, [first, replace(other, target="LIMA ")], CONTEXT) == []
        assert check_texts(TOKENIZER, [first, other], CONTEXT) == []
    own = Fact("Peru is", "Lima", rephrasings=("peru is", "Peru is"))
    assert check_facts(TOKENIZER, [own], CONTEXT) == []


def test_a_placeholder_needs_a_subject() -> None:
    fact = Fact("{} is in", "Oslo", rephrasings=("It is in", "{} lies in"), question="Where is {}?")
    problems = check_facts(TOKENIZER, [GOOD, fact], CONTEXT)
    assert [p.pointer for p in problems] == [
        "/facts/1/prompt",
        "/facts/1/question",
        "/facts/1/rephrasings/1",
    ]
    assert all("none. Give it" in p.detail for p in problems)
    record = {"prompt": fact.prompt, "target": "Oslo", "question": fact.question, "subject": "Suriname"}
    assert check_facts(TOKENIZER, [Fact.from_json(record)], CONTEXT) == []


def test_a_prompt_is_not_both_changed_and_held() -> None:
    facts = [
        Fact("The capital of Peru is", "Paris", "Peru", ("Peru has its capital in",)),
        Fact(
            "The river flows to",
            "Lima",
            locality=(LocalityPrompt("Ana"), LocalityPrompt("the  capital of Peru is", hold=True)),
        ),
        Fact("Ana plays", "Lima", locality=(LocalityPrompt("Peru has its capital in", hold=True),)),
        Fact("Ana reads", "Lima", locality=(LocalityPrompt("Peru has its capital in"),)),
    ]
    found = check_facts(TOKENIZER, facts, 128)
    pointers = ["/facts/1/locality/1/prompt", "/facts/2/locality/0/prompt"]
    assert [problem.pointer for problem in found] == pointers
    assert all("/facts/0 changes" in problem.detail for problem in found)


@pytest.mark.parametrize("joiner", ["auto", " ", ""])
def test_a_target_is_measured_with_its_joiner(llama: BaseModel, joiner: Joiner) -> None:
    """Right at the edge of the context: the check and the edit agree."""
    fact = Fact("a" + " is" * 30, "Lima", joiner=joiner)
    whole = len(encode(llama.tokenizer, fact.prompt, fact.target, None, joiner).ids)
    assert check_facts(llama.tokenizer, [fact], whole) == []
    assert [p.pointer for p in check_facts(llama.tokenizer, [fact], whole - 1)] == ["/facts/0/prompt"]


def test_a_question_must_fit_in_chat_form(llama: BaseModel) -> None:
    """Where there is a template; the fact's own prompt and target stand behind it."""
    tokenizer = tiny_tokenizer()
    fact = Fact("Peru's capital is", "Lima", question="What is" + " the" * 10 + " capital of Peru?")
    assert check_facts(tokenizer, [fact], 20) == []
    tokenizer.chat_template = CHAT
    chat = chat_prompt(tokenizer, fact.question or "")
    assert chat is not None
    assert chat.endswith("[assistant] ")
    whole = len(encode_prompt(tokenizer, chat + fact.prompt)) + len(encode_prompt(tokenizer, " Lima"))
    assert check_facts(tokenizer, [fact], whole) == []
    assert [p.pointer for p in check_facts(tokenizer, [fact], whole - 1)] == ["/facts/0/question"]
    assert check_facts(tokenizer, [fact], whole - 1, ["Lima"]) == [], "a classifier does not chat"


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
    assert edit_goals(llama, [fact]).sequences
    with pytest.raises(PromptTooLong):
        edit_goals(llama, [replace(fact, prompt="a" + " is" * 200)])
    assert check_facts(llama.tokenizer, [fact], room) == []
    assert [p.pointer for p in check_facts(llama.tokenizer, [fact], room - 1)] == ["/facts/0/prompt"]


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
    prompts = Fact(
        "東京 is in", "Peru", rephrasings=("東京 lies in",), locality=(LocalityPrompt("京 is", "京"),)
    )
    assert check_facts(unigram(), [prompts], 99) == []


def test_a_target_without_tokens_is_found_also_if_it_has_characters() -> None:
    """A tokenizer that knows only one word, and drops all others."""
    words = Tokenizer(models.WordPiece({"a": 0}, unk_token="a"))
    small = PreTrainedTokenizerFast(tokenizer_object=words)
    assert [p.pointer for p in check_facts(small, [Fact("a", "")], 9)] == ["/facts/0/target"]

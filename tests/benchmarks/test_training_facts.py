"""What is held out of training is held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.training_facts import HELD_OUT_RELATIONS, Maker, make, statements
from malmen_core.facts import normalise
from tests.tiny import tiny_tokenizer

PATTERNS = {
    "P19": ["[X] was born in [Y].", "[X] is native to [Y] .", "[Y] is where [X] was born."],
    "P20": ["[X] died in [Y].", "[X] passed away in [Y]."],
    "P39": ["[X] has the position of [Y] ."],
    "P1": ["[Y] has [X]."],
}
TEMPLATE = "{% for turn in messages %}<{{ turn.content }}>{% endfor %}"


def made(
    limit: int | None = None, trained_on: Sequence[dict[str, Any]] = ()
) -> dict[str, list[dict[str, Any]]]:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    facts = [
        {"relation": relation, "subject": f"{relation} subject {number:02}", "object": f"place {number % 7}"}
        for relation in PATTERNS
        for number in range(60)
    ]
    facts += [{"relation": "P39", "subject": f"P19 subject {n:02}", "object": "bishop"} for n in range(60)]
    record = {"prompt": "p", "target": "t", "rephrasings": ["r"], "locality": []}
    counterfact = [{**record, "subject": f"p19 SUBJECT {number:02}"} for number in range(60)]
    return make(Maker(facts, PATTERNS, tokenizer), counterfact, 20, limit, 1, trained_on)


def test_statements_end_where_the_object_begins() -> None:
    assert statements(PATTERNS, "P19") == ["{} was born in", "{} is native to"]
    assert statements(PATTERNS, "P1") == []


def test_subjects_and_relations_are_apart() -> None:
    lists = made()
    subjects = {name: {normalise(f["subject"]) for f in facts} for name, facts in lists.items()}
    assert not subjects["train"] & (subjects["subjects"] | subjects["relations"])
    assert len(lists["subjects"]) == len(lists["relations"]) == 20
    assert all("P20" in fact["subject"] for fact in lists["relations"])
    assert "P20" in HELD_OUT_RELATIONS
    assert not any("P20" in fact["subject"] for fact in (*lists["train"], *lists["subjects"]))
    assert not any("P1 " in fact["subject"] for facts in lists.values() for fact in facts)


@pytest.mark.parametrize("name", ["train", "subjects", "relations"])
def test_some_are_asked_in_chat_and_the_locality_prompt_is_of_another_subject(name: str) -> None:
    facts = [fact for fact in made()[name] if fact["prompt"] != "p"]
    chats = [fact for fact in facts if fact["rephrasings"][0].startswith("<")]
    assert 0 < len(chats) < len(facts)
    assert all(fact["rephrasings"][0].endswith(f">{fact['prompt']}") for fact in chats)
    assert all(fact["subject"] not in probe["prompt"] for fact in facts for probe in fact["locality"])


def test_the_same_seed_gives_the_same_facts() -> None:
    assert made() == made()
    assert made(limit=9)["train"] == made()["train"][:9]


def test_what_was_trained_on_is_not_held_out() -> None:
    before = made()["train"][:20]
    known = {normalise(fact["subject"]) for fact in before}
    lists = made(trained_on=before)
    held_out = [normalise(fact["subject"]) for name in ("subjects", "relations") for fact in lists[name]]
    assert len(held_out) == 40
    assert not known & set(held_out)
    assert known & {normalise(fact["subject"]) for fact in made()["train"]}

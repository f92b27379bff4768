"""The maker of question-style facts."""

from __future__ import annotations

from benchmarks.question_facts import QUESTIONS, make

FACTS = [
    {"relation": relation, "subject": f"{relation} {number}", "object": f"object {number}"}
    for relation in ("P19", "P36", "P0")
    for number in range(20)
]


def test_each_fact_has_its_own_subject_and_a_probe_of_another_relation() -> None:
    made = make([*FACTS, *FACTS], 30, seed=1)
    assert len(made) == 30
    assert len({fact["subject"] for fact in made}) == 30
    for fact in made:
        assert fact["subject"] in fact["prompt"]
        assert all(fact["subject"] in text and text != fact["prompt"] for text in fact["rephrasings"])
        (probe,) = fact["locality"]
        assert fact["subject"].split()[0] not in probe["prompt"]
    assert made == make([*FACTS, *FACTS], 30, seed=1)
    assert made != make([*FACTS, *FACTS], 30, seed=2)


def test_questions_differ() -> None:
    assert all(
        len(set(questions)) == 3 and all("{}" in q for q in questions) for questions in QUESTIONS.values()
    )

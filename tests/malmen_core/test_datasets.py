"""Published formats: the members that the data sets have, and what becomes of each."""

from __future__ import annotations

from typing import Any

import pytest

from malmen_core.datasets import CLAIM, api_form
from malmen_core.errors import FactError
from malmen_core.facts import Fact, Probe

COUNTERFACT: dict[str, Any] = {
    "case_id": 0,
    "pararel_idx": 2796,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["Shayna does this. Danielle Darrieux, a native"],
    "neighborhood_prompts": ["The native language of Montesquieu is", "Raymond Barre is a native speaker of"],
    "attribute_prompts": ["The mother tongue of Douglas Adams is"],
    "generation_prompts": ["Danielle Darrieux was born in"],
}
ZSRE_MEMIT: dict[str, Any] = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "pred": "Trinity College",
    "rephrase": "What university did Watts Humphrey take part in?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology"],
    "loc": "nq question: who played desmond doss father in hacksaw ridge",
    "loc_ans": "Hugo Weaving",
    "cond": "Trinity College >> University of Michigan || What university did Watts Humphrey attend?",
}
ZSRE_MEND: dict[str, Any] = {
    "id": "1",
    "input": "Which river flows through Rome?",
    "prediction": "Tiber",
    "output": [{"answer": "Tiber", "provenance": []}],
    "alternatives": ["Danube", "Rhine"],
    "filtered_rephrases": ["What river runs through Rome?", "Which river flows through Rome?"],
}
FEVER_MEND: dict[str, Any] = {
    "input": "Telemundo is an English-language television network.",
    "logit": -3.2,
    "prob": 0.04,
    "output": [{"answer": "REFUTES"}],
    "alternatives": ["SUPPORTS"],
    "filtered_rephrases": ["Telemundo broadcasts in English."],
}
OWN: dict[str, Any] = {"prompt": "A is", "target": "B"}
FEVER = {"id": 75397, "verifiable": "VERIFIABLE", "label": "SUPPORTS", "claim": "Nikolaj worked with Fox."}


def test_counterfact() -> None:
    assert Fact.from_json(api_form(COUNTERFACT)) == Fact(
        "The mother tongue of Danielle Darrieux is",
        "English",
        "Danielle Darrieux",
        ("Shayna does this. Danielle Darrieux, a native",),
        (
            Probe("The native language of Montesquieu is", "French"),
            Probe("Raymond Barre is a native speaker of", "French"),
        ),
    )


def test_zsre_as_memit_has_it() -> None:
    assert Fact.from_json(api_form(ZSRE_MEMIT)) == Fact(
        "What university did Watts Humphrey attend?",
        "Illinois Institute of Technology",
        "Watts Humphrey",
        ("What university did Watts Humphrey take part in?",),
        (Probe("nq question: who played desmond doss father in hacksaw ridge", "Hugo Weaving"),),
    )
    assert api_form({**ZSRE_MEMIT, "answers": []})["target"] == "University of Michigan"


def test_zsre_as_mend_has_it() -> None:
    assert Fact.from_json(api_form(ZSRE_MEND)) == Fact(
        "Which river flows through Rome?", "Danube", None, ("What river runs through Rome?",)
    )
    assert api_form({**ZSRE_MEND, "alternatives": []})["target"] == "Tiber"


def test_fever() -> None:
    edited = api_form(FEVER_MEND)
    assert edited["prompt"] == CLAIM.format("Telemundo is an English-language television network.")
    assert edited["rephrasings"] == [CLAIM.format("Telemundo broadcasts in English.")]
    assert edited["target"] == "True"
    assert api_form({**FEVER_MEND, "alternatives": []})["target"] == "False"
    assert api_form(FEVER)["target"] == "True"


def test_a_classifier_is_given_the_claim_and_its_own_label() -> None:
    own = ("refutes", "Supports", "NOT ENOUGH INFO")
    edited = api_form(FEVER_MEND, own)
    assert (edited["prompt"], edited["target"]) == (FEVER_MEND["input"], "Supports")
    assert edited["rephrasings"] == FEVER_MEND["filtered_rephrases"]
    assert api_form(FEVER, ("false", "true"))["target"] == "true"
    assert api_form({**FEVER, "label": "NOT ENOUGH INFO"}, own)["target"] == "NOT ENOUGH INFO"
    with pytest.raises(FactError, match=r"'NOT ENOUGH INFO' or 'Unknown'.*false, true") as refused:
        api_form({**FEVER, "label": "NOT ENOUGH INFO"}, ("false", "true"))
    assert refused.value.field == "/label"


def test_empty_answers_are_none() -> None:
    assert api_form({**ZSRE_MEMIT, "answers": [""]})["target"] == "University of Michigan"
    assert api_form({**ZSRE_MEND, "alternatives": ["", "Po"]})["target"] == "Po"


def test_facts_in_the_api_s_form_are_not_changed() -> None:
    own = {"prompt": "A is", "target": "B", "true_target": "C", "locality": [{"prompt": "D is"}]}
    assert api_form(own) == own
    bare = {"prompt": "A is", "target": "B", "subject": None, "rephrasings": None, "locality": None}
    assert api_form(bare) == bare


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({}, ""),
        ({"question": "Who?"}, ""),
        ({**COUNTERFACT, "requested_rewrite": {"prompt": "{} is"}}, "/requested_rewrite/subject"),
        (
            {
                **COUNTERFACT,
                "requested_rewrite": {**COUNTERFACT["requested_rewrite"], "target_new": {"str": 1}},
            },
            "/requested_rewrite/target_new/str",
        ),
        ({**COUNTERFACT, "paraphrase_prompts": [1]}, "/paraphrase_prompts/0"),
        ({**ZSRE_MEMIT, "answers": [], "alt": None}, "/alt"),
        ({**ZSRE_MEND, "alternatives": [], "output": []}, "/output/0/answer"),
        ({**FEVER, "label": "PERHAPS"}, "/label"),
        ({"prompt": "A is"}, "/target"),
        ({"target": "B"}, "/prompt"),
        ({**OWN, "subject": 5}, "/subject"),
        ({**OWN, "rephrasings": "A has"}, "/rephrasings"),
        ({**OWN, "rephrasings": ["A has", 1]}, "/rephrasings/1"),
        ({**OWN, "locality": {"prompt": "D is"}}, "/locality"),
        ({**OWN, "locality": ["D is"]}, "/locality/0"),
        ({**OWN, "locality": [{"prompt": "D is"}, {"target": "E"}]}, "/locality/1/prompt"),
        ({**OWN, "locality": [{"prompt": "D is", "target": 7}]}, "/locality/0/target"),
        ({**OWN, "locality": [{"prompt": "D is", "hold": "yes"}]}, "/locality/0/hold"),
    ],
)
def test_what_is_wrong_is_named(record: dict[str, Any], field: str) -> None:
    with pytest.raises(FactError) as refused:
        api_form(record)
    assert refused.value.field == field

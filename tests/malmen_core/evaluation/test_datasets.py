"""Published formats: the members that the data sets have, and what becomes of each."""

from __future__ import annotations

from typing import Any

import pytest

from malmen_core.errors import FactError
from malmen_core.evaluation.datasets import CLAIM, MEMBERS, api_forms, is_published
from malmen_core.facts import Fact, LocalityPrompt
from service.schemas.edits import FactBody

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


ZSRE_MALMEN: dict[str, Any] = {
    "src": "Which river flows through Rome?",
    "rephrase": "What river runs through Rome?",
    "ans": "Tiber",
    "loc": "nq question: who wrote the iliad",
    "loc_ans": "Homer",
}
FEVER_MALMEN: dict[str, Any] = {
    "prompt": "Telemundo is an English-language television network.",
    "equiv_prompt": ["Telemundo broadcasts in English.", "Telemundo's language is English."],
    "unrel_prompt": "Nikolaj worked with Fox.",
    "alt": "SUPPORTS",
    "ans": "REFUTES",
    "unrel_ans": "SUPPORTS",
}
KNOWEDIT: dict[str, Any] = {
    "subject": "Leo Arons",
    "prompt": "The place of death of Leo Arons is",
    "target_new": "Bremen",
    "ground_truth": ["Berlin"],
    "rephrase_prompt": "Leo Arons died in",
    "portability": {"Reasoning": [{"prompt": "The country is", "ground_truth": [["Germany", "DE"]]}]},
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The father of Leo Arons is", "ground_truth": [["Albert Arons"]]},
            {"prompt": "Leo Arons worked in", "ground_truth": ["physics", "science"]},
            {"prompt": "Leo Arons was born in", "ground_truth": "Berlin"},
        ],
        "Forgetfulness": [],
    },
}
WIKIBIO: dict[str, Any] = {
    "text": "This is a Wikipedia passage about john russell reynolds. He was a neurologist.",
    "labels": "He was educated in London.",
    "concept": "john russell reynolds",
    "locality": {"Relation_Specificity": [{"prompt": "His work is", "ground_truth": ["medicine"]}]},
}
EASYEDIT: dict[str, Any] = {
    "case_id": 21918,
    "prompt": "Subair works as",
    "target_new": "composer",
    "subject": "Subair",
    "ground_truth": "actor",
    "rephrase_prompt": "Subair is known for",
    "locality_prompt": "The occupation of Michael Jackson is",
    "locality_ground_truth": "singer",
}
EASYEDIT_REQUEST: dict[str, Any] = {
    **{name: EASYEDIT[name] for name in ("prompt", "target_new", "subject")},
    "rephrase_prompt": ["Subair is known for", "Subair's work is"],
    "locality": {"neighborhood": {"prompt": ["Ana works as", "Bo works as"], "ground_truth": ["x", "y"]}},
}
WIKIBIGEDIT: dict[str, Any] = {
    "tag": "changed",
    "subject": "Peru",
    "relation": "head of government",
    "object": "Ana",
    "update": "Who is the head of government of Peru?",
    "ans": "Ana",
    "rephrase": "Who leads the government of Peru?",
    "personas": "Arr, who leads Peru?",
    "loc": "Who is the head of government of Chile?",
    "loc_ans": "Bo",
    "mhop": None,
    "mhop_ans": None,
}
MQUAKE: dict[str, Any] = {
    "case_id": 1,
    "requested_rewrite": [
        {
            "prompt": "{} is a citizen of",
            "relation_id": "P27",
            "target_new": {"str": "Croatia", "id": "Q224"},
            "target_true": {"str": "United States of America", "id": "Q30"},
            "subject": "Ellie Kemper",
            "question": "What is the country of citizenship of Ellie Kemper?",
        },
        {
            "prompt": "The capital of {} is",
            "target_new": {"str": "Split", "id": "Q1663"},
            "subject": "Croatia",
            "question": "What is the capital of Croatia?",
        },
    ],
    "questions": ["What is the capital of the country of Ellie Kemper?"],
    "new_answer": "Split",
    "single_hops": [],
    "orig": {},
}


def api_form(record: dict[str, Any], labels: tuple[str, ...] = ()) -> dict[str, Any]:
    """The one fact of a record."""
    (fact,) = api_forms(record, labels)
    return fact


def test_what_a_fact_may_have_is_what_the_service_takes() -> None:
    assert MEMBERS - {"question"} == set(FactBody.model_fields) - {"question"}


def test_counterfact() -> None:
    assert Fact.from_json(api_form(COUNTERFACT)) == Fact(
        "The mother tongue of Danielle Darrieux is",
        "English",
        "Danielle Darrieux",
        ("Shayna does this. Danielle Darrieux, a native",),
        (
            LocalityPrompt("The native language of Montesquieu is", "French"),
            LocalityPrompt("Raymond Barre is a native speaker of", "French"),
        ),
    )


def test_zsre_as_memit_has_it() -> None:
    assert Fact.from_json(api_form(ZSRE_MEMIT)) == Fact(
        "What university did Watts Humphrey attend?",
        "Illinois Institute of Technology",
        "Watts Humphrey",
        ("What university did Watts Humphrey take part in?",),
        (LocalityPrompt("nq question: who played desmond doss father in hacksaw ridge?", "Hugo Weaving"),),
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


def test_zsre_as_malmen_has_it() -> None:
    assert Fact.from_json(api_form(ZSRE_MALMEN)) == Fact(
        "Which river flows through Rome?",
        "Tiber",
        None,
        ("What river runs through Rome?",),
        (LocalityPrompt("nq question: who wrote the iliad?", "Homer"),),
    )


def test_fever_as_malmen_has_it() -> None:
    edited = api_form(FEVER_MALMEN)
    assert (edited["prompt"], edited["target"]) == (CLAIM.format(FEVER_MALMEN["prompt"]), "True")
    assert edited["rephrasings"] == [CLAIM.format(text) for text in FEVER_MALMEN["equiv_prompt"]]
    assert edited["locality"] == [{"prompt": CLAIM.format("Nikolaj worked with Fox."), "target": "True"}]
    own = api_form(FEVER_MALMEN, ("REFUTES", "SUPPORTS"))
    assert own["locality"] == [{"prompt": "Nikolaj worked with Fox.", "target": "SUPPORTS"}]
    assert own["target"] == "SUPPORTS"


def test_knowedit() -> None:
    assert Fact.from_json(api_form(KNOWEDIT)) == Fact(
        "The place of death of Leo Arons is",
        "Bremen",
        "Leo Arons",
        ("Leo Arons died in",),
        (
            LocalityPrompt("The father of Leo Arons is", "Albert Arons"),
            LocalityPrompt("Leo Arons worked in", "physics"),
            LocalityPrompt("Leo Arons was born in", "Berlin"),
        ),
    )
    assert Fact.from_json(api_form(WIKIBIO)) == Fact(
        WIKIBIO["text"],
        WIKIBIO["labels"],
        WIKIBIO["concept"],
        (),
        (LocalityPrompt("His work is", "medicine"),),
    )


def test_easyedit() -> None:
    assert Fact.from_json(api_form(EASYEDIT)) == Fact(
        "Subair works as",
        "composer",
        "Subair",
        ("Subair is known for",),
        (LocalityPrompt("The occupation of Michael Jackson is", "singer"),),
    )
    several = Fact.from_json(api_form(EASYEDIT_REQUEST))
    assert several.rephrasings == ("Subair is known for", "Subair's work is")
    assert several.locality == (LocalityPrompt("Ana works as", "x"), LocalityPrompt("Bo works as", "y"))


def test_wikibigedit() -> None:
    assert Fact.from_json(api_form(WIKIBIGEDIT)) == Fact(
        "Who is the head of government of Peru?",
        "Ana",
        "Peru",
        ("Who leads the government of Peru?",),
        (LocalityPrompt("Who is the head of government of Chile?", "Bo"),),
    )


def test_each_single_edit_of_mquake_is_a_fact() -> None:
    assert list(map(Fact.from_json, api_forms(MQUAKE))) == [
        Fact(
            "Ellie Kemper is a citizen of",
            "Croatia",
            "Ellie Kemper",
            question="What is the country of citizenship of Ellie Kemper?",
        ),
        Fact("The capital of Croatia is", "Split", "Croatia", question="What is the capital of Croatia?"),
    ]


def test_published_records_are_told_from_ours() -> None:
    published = (COUNTERFACT, ZSRE_MEMIT, ZSRE_MEND, ZSRE_MALMEN, FEVER, FEVER_MALMEN, KNOWEDIT, MQUAKE)
    assert all(map(is_published, published))
    assert not any(map(is_published, ({}, OWN, {"prompt": "A is", "answer": "B"})))


def test_facts_in_the_api_s_form_keep_what_is_sent() -> None:
    own = {"prompt": "A is", "target": "B", "locality": [{"prompt": "D is"}], "note": "atlas"}
    assert api_form({**own, "id": 7, "true_target": "C", "subject": None, "rephrasings": None}) == own


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
        ({**OWN, "rephrase": ["A has"]}, "/rephrase"),
        ({**OWN, "locality": [{"prompt": "D is", "answer": "E"}]}, "/locality/0/answer"),
        ({"prompt": "A is", "targets": "B"}, "/targets"),
        ({**OWN, "note": 1}, "/note"),
        ({**ZSRE_MALMEN, "ans": 5}, "/ans"),
        ({**FEVER_MALMEN, "alt": "MAYBE"}, "/alt"),
        ({**FEVER_MALMEN, "unrel_ans": None}, "/unrel_ans"),
        ({**KNOWEDIT, "target_new": []}, "/target_new"),
        ({**KNOWEDIT, "locality": {"Relation_Specificity": ["x"]}}, "/locality/Relation_Specificity"),
        ({**EASYEDIT, "locality_prompt": 5}, "/locality_prompt"),
        ({**WIKIBIGEDIT, "update": None}, "/update"),
        ({"requested_rewrite": []}, "/requested_rewrite"),
        ({"requested_rewrite": [1]}, "/requested_rewrite/0"),
        (
            {"requested_rewrite": [{**MQUAKE["requested_rewrite"][0], "question": 1}]},
            "/requested_rewrite/0/question",
        ),
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
        api_forms(record)
    assert refused.value.field == field

"""Facts in the formats of published data sets, recognised by their content and put into the API's form.

===================== ============================================ ==========================================
format                recognised by                                target
===================== ============================================ ==========================================
this project's        ``prompt`` or ``target``                     ``target``
CounterFact           ``requested_rewrite``                        ``requested_rewrite/target_new/str``
zsRE, as MEMIT has it ``src``                                      the first of ``answers``, else ``alt``
zsRE, as MEND has it  ``input``                                    first of ``alternatives``, else ``output``
FEVER, as MEND has it ``input``, with labels as answers            likewise, as a word
FEVER                 ``claim``                                    ``label``, as a word
===================== ============================================ ==========================================

CounterFact: Meng et al. 2022; zsRE: Levy et al. 2017 as split by Mitchell et al. 2022 (MEND) and Meng et al.
2023 (MEMIT); FEVER: Thorne et al. 2018. A claim has no continuation, so it is put as a question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from malmen_core.errors import FactError

VERDICTS = {"SUPPORTS": "True", "REFUTES": "False", "NOT ENOUGH INFO": "Unknown"}
CLAIM = "Claim: {}\nIs this claim true or false? Answer:"

Record = Mapping[str, Any]


def api_form(record: Record) -> dict[str, Any]:
    """A record of any known format as the API takes a fact; one that is in this form already is not changed.

    Raises:
        FactError: the format is unknown, or a member is missing or of another type; `field` is its JSON
            pointer in the record.
    """
    for sign, read in _FORMATS:
        if sign in record:
            return read(record)
    raise FactError(
        f"The members {', '.join(sorted(map(str, record))) or '(none)'} are of no known format.",
        "Give facts in the API's form, or a CounterFact, zsRE or FEVER file as it was published.",
        "",
    )


def _own(record: Record) -> dict[str, Any]:
    return dict(record)


def _counterfact(record: Record) -> dict[str, Any]:
    rewrite = _member(record, "requested_rewrite", Mapping)
    at = "/requested_rewrite"
    subject = _text(rewrite, "subject", at)
    old = rewrite.get("target_true")
    answer = _text(_member(rewrite, "target_true", Mapping, at), "str", f"{at}/target_true") if old else None
    return {
        "prompt": _text(rewrite, "prompt", at).replace("{}", subject),
        "target": _text(_member(rewrite, "target_new", Mapping, at), "str", f"{at}/target_new"),
        "subject": subject,
        "rephrasings": _texts(record, "paraphrase_prompts"),
        "locality": [_probe(prompt, answer) for prompt in _texts(record, "neighborhood_prompts")],
    }


def _zsre(record: Record) -> dict[str, Any]:
    question = _text(record, "src")
    answers = _texts(record, "answers")
    return _question(record, question, answers[0] if answers else _text(record, "alt"))


def _kilt(record: Record) -> dict[str, Any]:
    question = _text(record, "input")
    alternatives = _texts(record, "alternatives")
    answers = alternatives or [_first_output(record)]
    if answers[0] in VERDICTS:
        return _verdict(record, question, answers[0], "/alternatives/0" if alternatives else "/output/0")
    return _question(record, question, answers[0])


def _fever(record: Record) -> dict[str, Any]:
    return _verdict(record, _text(record, "claim"), _text(record, "label"), "/label")


_FORMATS: Sequence[tuple[str, Callable[[Record], dict[str, Any]]]] = (
    ("requested_rewrite", _counterfact),
    ("src", _zsre),
    ("claim", _fever),
    ("prompt", _own),
    ("target", _own),
    ("input", _kilt),
)


def _question(record: Record, question: str, target: str) -> dict[str, Any]:
    fact: dict[str, Any] = {"prompt": question, "target": target}
    if record.get("subject") is not None:
        fact["subject"] = _text(record, "subject")
    rephrasings = _texts(record, "rephrase") + _texts(record, "filtered_rephrases")
    fact["rephrasings"] = [text for text in dict.fromkeys(rephrasings) if text != question]
    answers = _texts(record, "loc_ans")
    fact["locality"] = [_probe(text, answers[0] if answers else None) for text in _texts(record, "loc")]
    return fact


def _verdict(record: Record, claim: str, label: str, at: str) -> dict[str, Any]:
    if label.upper() not in VERDICTS:
        raise FactError(f"{label!r} is no verdict.", f"Use one of: {', '.join(VERDICTS)}.", at)
    fact = _question(record, claim, VERDICTS[label.upper()])
    fact["rephrasings"] = [CLAIM.format(text) for text in fact["rephrasings"]]
    return {**fact, "prompt": CLAIM.format(claim)}


def _first_output(record: Record) -> str:
    output = _member(record, "output", list)
    if not output or not isinstance(output[0], Mapping):
        raise FactError(
            "There is no answer in 'output'.", "Give it, or give 'alternatives'.", "/output/0/answer"
        )
    return _text(output[0], "answer", "/output/0")


def _probe(prompt: str, answer: str | None) -> dict[str, str]:
    return {"prompt": prompt} if answer is None else {"prompt": prompt, "target": answer}


def _member(record: Record, name: str, kind: Any, at: str = "") -> Any:
    value = record.get(name)
    if not isinstance(value, kind):
        found = "missing" if value is None else f"a {type(value).__name__}"
        wanted = {Mapping: "an object", list: "a list", str: "a text"}[kind]
        raise FactError(f"{name!r} is {found}.", f"It must be {wanted}.", f"{at}/{name}")
    return value


def _text(record: Record, name: str, at: str = "") -> str:
    text: str = _member(record, name, str, at)
    return text


def _texts(record: Record, name: str) -> list[str]:
    """A list of texts, or one text alone; empty if it is not there."""
    value = record.get(name)
    if value is None or isinstance(value, str):
        return [value] if value else []
    items = _member(record, name, list)
    for number, item in enumerate(items):
        if not isinstance(item, str):
            raise FactError(f"Item {number} of {name!r} is no text.", "Give texts only.", f"/{name}/{number}")
    return list(items)

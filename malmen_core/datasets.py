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
2023 (MEMIT); FEVER: Thorne et al. 2018. A claim has no continuation, so a model that writes text is asked
whether it is true; a classifier is given the claim as it is, with its own label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from malmen_core.errors import FactError

VERDICTS = {"SUPPORTS": "True", "REFUTES": "False", "NOT ENOUGH INFO": "Unknown"}
CLAIM = "Claim: {}\nIs this claim true or false? Answer:"

Record = Mapping[str, Any]
Labels = Sequence[str]


def api_form(record: Record, labels: Sequence[str] = ()) -> dict[str, Any]:
    """A record of any known format as the API takes a fact; one that is in this form already is not changed.

    Args:
        record: a JSON object.
        labels: of the classifier that is to be edited; none for a model that writes text.

    Raises:
        FactError: the format is unknown, a member is missing or of another type, or the classifier has no
            such label; `field` is its JSON pointer in the record.
    """
    for sign, read in _FORMATS:
        if sign in record:
            return read(record, labels)
    raise FactError(
        f"The members {', '.join(sorted(map(str, record))) or '(none)'} are of no known format.",
        "Give facts in the API's form, or a CounterFact, zsRE or FEVER file as it was published.",
        "",
    )


def _own(record: Record, _: Labels) -> dict[str, Any]:
    for name in ("prompt", "target"):
        _text(record, name)
    if record.get("subject") is not None:
        _text(record, "subject")
    for name in ("rephrasings", "locality"):
        if record.get(name) is not None:
            _member(record, name, list)
    _texts(record, "rephrasings")
    for number, probe in enumerate(record.get("locality") or ()):
        at = f"/locality/{number}"
        if not isinstance(probe, Mapping):
            raise FactError(f"Item {number} of 'locality' is no object.", 'Write {"prompt": "…"}.', at)
        _text(probe, "prompt", at)
        if probe.get("target") is not None:
            _text(probe, "target", at)
        if not isinstance(probe.get("hold", False), bool):
            raise FactError(f"'hold' of item {number} is no boolean.", "Write true or false.", f"{at}/hold")
    return dict(record)


def _counterfact(record: Record, _: Labels) -> dict[str, Any]:
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


def _zsre(record: Record, _: Labels) -> dict[str, Any]:
    question = _text(record, "src")
    answers = list(filter(None, _texts(record, "answers")))
    return _question(record, question, answers[0] if answers else _text(record, "alt"))


def _kilt(record: Record, labels: Labels) -> dict[str, Any]:
    question = _text(record, "input")
    alternatives = list(filter(None, _texts(record, "alternatives")))
    answers = alternatives or [_first_output(record)]
    if answers[0] in VERDICTS:
        at = "/alternatives/0" if alternatives else "/output/0/answer"
        return _verdict(record, question, answers[0], at, labels)
    return _question(record, question, answers[0])


def _fever(record: Record, labels: Labels) -> dict[str, Any]:
    return _verdict(record, _text(record, "claim"), _text(record, "label"), "/label", labels)


_FORMATS: Sequence[tuple[str, Callable[[Record, Labels], dict[str, Any]]]] = (
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


def _verdict(record: Record, claim: str, label: str, at: str, labels: Labels) -> dict[str, Any]:
    word = VERDICTS.get(label.upper())
    if word is None:
        raise FactError(f"{label!r} is no verdict.", f"Use one of: {', '.join(VERDICTS)}.", at)
    if labels:
        return _question(record, claim, _own_label((label, word), labels, at))
    fact = _question(record, claim, word)
    fact["rephrasings"] = [CLAIM.format(text) for text in fact["rephrasings"]]
    return {**fact, "prompt": CLAIM.format(claim)}


def _own_label(words: Sequence[str], labels: Labels, at: str) -> str:
    """A classifier's label that is one of these words, whatever their case."""
    wanted = [word.casefold() for word in words]
    for label in labels:
        if label.casefold() in wanted:
            return label
    raise FactError(
        f"The classifier has no label {' or '.join(map(repr, words))}.",
        f"Its labels are: {', '.join(labels)}. Remove such claims, or give them in the API's form.",
        at,
    )


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

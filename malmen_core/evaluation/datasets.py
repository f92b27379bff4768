"""Facts in the formats of published data sets, recognised by their members and put into the API's form.

======================= ============================================ =======================================
format                  recognised by                                target
======================= ============================================ =======================================
this project's          ``prompt`` or ``target``                     ``target``
CounterFact             ``requested_rewrite``, an object             its ``target_new/str``
MQuAKE                  ``requested_rewrite``, a list: a fact each   the ``target_new/str`` of each
zsRE, as MEMIT has it   ``src``                                      first of ``answers``, else ``alt``
zsRE, as MALMEN has it  ``src`` with ``ans``                         ``ans``
zsRE, as MEND has it    ``input``                                    first of ``alternatives``, or ``output``
FEVER, as MEND has it   ``input``, with labels as answers            likewise, as a word
FEVER, as MALMEN has it ``equiv_prompt`` or ``unrel_prompt``         ``alt``, as a word
FEVER                   ``claim``                                    ``label``, as a word
WikiBigEdit             ``update`` with ``ans``                      ``ans``
KnowEdit, EasyEdit      ``target_new``, or ``text`` with ``labels``  that
======================= ============================================ =======================================

CounterFact: Meng et al. 2022; zsRE: Levy et al. 2017 as split by Mitchell et al. 2022 (MEND), Meng et al.
2023 (MEMIT) and Tan et al. 2024 (MALMEN); FEVER: Thorne et al. 2018; MQuAKE: Zhong et al. 2023; KnowEdit:
Zhang et al. 2024; EasyEdit: Wang et al. 2024; WikiBigEdit: Thede et al. 2025.

A claim has no continuation, so a model that writes text is asked whether it is true; a classifier is given
the claim as it is, with its own label. Rephrasings and locality prompts are read; questions about what
follows from a fact (portability, several hops) are left out. Members of a published format that are not used
are ignored; in this project's own format an unknown member is an error, as it is for the service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from malmen_core.errors import FactError

VERDICTS = {"SUPPORTS": "True", "REFUTES": "False", "NOT ENOUGH INFO": "Unknown"}
CLAIM = "Claim: {}\nIs this claim true or false? Answer:"

TEXTS = (
    "prompt",
    "target",
    "subject",
    "question",
    "joiner",
    "source",
    "author",
    "ticket",
    "note",
    "expires_at",
)
JOINERS = ("auto", " ", "")
LISTS = ("rephrasings", "locality")
MEMBERS = frozenset({*TEXTS, *LISTS})
"""What a fact may have in the API's form."""
ANNOTATIONS = frozenset({"id", "true_target"})
"""What a file may say of a fact besides; it is left out."""
PROBE_MEMBERS = frozenset({"prompt", "messages", "target", "hold"})

Record = Mapping[str, Any]
Labels = Sequence[str]


def api_forms(record: Record, labels: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A record of any known format as the API takes facts: one, or each of several edits that it holds.

    Args:
        record: a JSON object.
        labels: of the classifier that is to be edited; none for a model that writes text.

    Raises:
        FactError: the format is unknown, a member is missing, unknown or of another type, or the classifier
            has no such label; `field` is its JSON pointer in the record.
    """
    if isinstance(record.get("requested_rewrite"), list):
        if not record["requested_rewrite"]:
            raise FactError("'requested_rewrite' is empty.", "Give at least one edit.", "/requested_rewrite")
        return [_rewrite(record, number) for number in range(len(record["requested_rewrite"]))]
    for signs, read in _FORMATS:
        if signs <= record.keys():
            return [read(record, labels)]
    raise FactError(
        f"The members {', '.join(sorted(map(str, record))) or '(none)'} are of no known format.",
        "Give facts in the API's form or a published data set, or name the columns with --map.",
        "",
    )


def is_published(record: Record) -> bool:
    """Whether a record is recognised as one of a published data set."""
    found = next((read for signs, read in _FORMATS if signs <= record.keys()), None)
    return "requested_rewrite" in record or found not in (None, _own)


def _own(record: Record, _: Labels) -> dict[str, Any]:
    _known(record, MEMBERS | ANNOTATIONS, "", "fact")
    for name in ("prompt", "target"):
        _text(record, name)
    for name in TEXTS:
        if record.get(name) is not None:
            _text(record, name)
    if record.get("joiner", "auto") not in (None, *JOINERS):
        raise FactError(f"'joiner' is {record['joiner']!r}.", 'It must be "auto", " " or "".', "/joiner")
    for name in LISTS:
        if record.get(name) is not None:
            _member(record, name, list)
    _texts(record, "rephrasings")
    for number, probe in enumerate(record.get("locality") or ()):
        at = f"/locality/{number}"
        if not isinstance(probe, Mapping):
            raise FactError(f"Item {number} of 'locality' is not an object.", 'Write {"prompt": "…"}.', at)
        _known(probe, PROBE_MEMBERS, at, "locality prompt")
        if probe.get("messages") is None:
            _text(probe, "prompt", at)
        if probe.get("target") is not None:
            _text(probe, "target", at)
        if not isinstance(probe.get("hold", False), bool):
            raise FactError(f"'hold' of item {number} is not a boolean.", "Give true or false.", f"{at}/hold")
    return {name: value for name, value in record.items() if value is not None and name not in ANNOTATIONS}


def _known(record: Record, members: frozenset[str], at: str, what: str) -> None:
    for name in record:
        if name not in members:
            known = ", ".join(sorted(members - ANNOTATIONS))
            raise FactError(f"{name!r} is not a member of a {what}.", f"Known are {known}.", f"{at}/{name}")


def _counterfact(record: Record, _: Labels) -> dict[str, Any]:
    rewrite = _member(record, "requested_rewrite", Mapping)
    fact, old = _edit(rewrite, "/requested_rewrite")
    return {
        **fact,
        "rephrasings": _texts(record, "paraphrase_prompts"),
        "locality": [_probe(prompt, old) for prompt in _texts(record, "neighborhood_prompts")],
    }


def _rewrite(record: Record, number: int) -> dict[str, Any]:
    """One of the single edits that a question of several hops needs, with its own question."""
    at, rewrite = f"/requested_rewrite/{number}", record["requested_rewrite"][number]
    if not isinstance(rewrite, Mapping):
        raise FactError(f"Item {number} of 'requested_rewrite' is not an object.", "Give one.", at)
    asked = {} if rewrite.get("question") is None else {"question": _text(rewrite, "question", at)}
    return {**_edit(rewrite, at)[0], **asked}


def _edit(rewrite: Record, at: str) -> tuple[dict[str, Any], str | None]:
    """The fact of a rewrite, and the answer that it replaces."""
    subject, old = _text(rewrite, "subject", at), rewrite.get("target_true")
    answer = _text(_member(rewrite, "target_true", Mapping, at), "str", f"{at}/target_true") if old else None
    target = _text(_member(rewrite, "target_new", Mapping, at), "str", f"{at}/target_new")
    prompt = _text(rewrite, "prompt", at).replace("{}", subject)
    return {"prompt": prompt, "target": target, "subject": subject}, answer


def _zsre(record: Record, _: Labels) -> dict[str, Any]:
    answers = list(filter(None, _texts(record, "answers")))
    target = answers[0] if answers else _text(record, "alt")
    return _question(record, _text(record, "src"), target)


def _zsre_malmen(record: Record, _: Labels) -> dict[str, Any]:
    return _question(record, _text(record, "src"), _text(record, "ans"))


def _wikibigedit(record: Record, _: Labels) -> dict[str, Any]:
    return _question(record, _text(record, "update"), _text(record, "ans"))


def _kilt(record: Record, labels: Labels) -> dict[str, Any]:
    question = _text(record, "input")
    alternatives = list(filter(None, _texts(record, "alternatives")))
    answers = alternatives or [_first_output(record)]
    if answers[0] in VERDICTS:
        at = "/alternatives/0" if alternatives else "/output/0/answer"
        return _verdict(question, answers[0], at, labels, _texts(record, "filtered_rephrases"))
    return _question(record, question, answers[0])


def _fever(record: Record, labels: Labels) -> dict[str, Any]:
    return _verdict(_text(record, "claim"), _text(record, "label"), "/label", labels)


def _fever_malmen(record: Record, labels: Labels) -> dict[str, Any]:
    claim, same = _text(record, "prompt"), _texts(record, "equiv_prompt")
    fact = _verdict(claim, _text(record, "alt"), "/alt", labels, same)
    if record.get("unrel_prompt") is not None:
        other = _verdict(_text(record, "unrel_prompt"), _text(record, "unrel_ans"), "/unrel_ans", labels)
        fact["locality"] = [_probe(other["prompt"], other["target"])]
    return fact


def _easyedit(record: Record, _: Labels) -> dict[str, Any]:
    fact = {"prompt": _text(record, "prompt"), "target": _leaf(record, "target_new")}
    return {**fact, **_benchmark(record, "subject")}


def _wikibio(record: Record, _: Labels) -> dict[str, Any]:
    fact = {"prompt": _text(record, "text"), "target": _leaf(record, "labels")}
    return {**fact, **_benchmark(record, "concept")}


def _benchmark(record: Record, subject: str) -> dict[str, Any]:
    """What the files of KnowEdit and EasyEdit say besides prompt and target."""
    found: dict[str, Any] = {}
    if record.get(subject) is not None:
        found["subject"] = _text(record, subject)
    names = ("rephrase_prompt", "rephrase_prompts", "rephrase")
    found["rephrasings"] = list(dict.fromkeys(text for name in names for text in _texts(record, name)))
    pairs = _pairs(record.get("locality_prompt"), record.get("locality_ground_truth"), "/locality_prompt")
    found["locality"] = [*pairs, *_grouped(record, "locality"), *_grouped(record, "locality_inputs")]
    return found


def _grouped(record: Record, name: str) -> Iterator[dict[str, str]]:
    """Locality prompts by kind: objects with ``prompt`` and ``ground_truth``, or one object with lists."""
    if record.get(name) is None:
        return
    for kind, group in _member(record, name, Mapping).items():
        for item in group if isinstance(group, list) else [group]:
            if not isinstance(item, Mapping):
                wrong = f"{kind!r} of {name!r} has something else than objects."
                raise FactError(wrong, "Give each a 'prompt' and a 'ground_truth'.", f"/{name}/{kind}")
            yield from _pairs(item.get("prompt"), item.get("ground_truth"), f"/{name}/{kind}")


def _pairs(prompts: Any, answers: Any, at: str) -> Iterator[dict[str, str]]:
    """Locality prompts, one or a list, with their answers: for each prompt one text or its aliases."""
    if prompts is None:
        return
    listed = isinstance(prompts, list)
    for number, prompt in enumerate(prompts if listed else [prompts]):
        if not isinstance(prompt, str):
            raise FactError("A locality prompt is not a text.", "Give texts only.", at)
        own = answers[number] if listed and isinstance(answers, list) and number < len(answers) else answers
        yield _probe(prompt, _first(own))


def _first(value: Any) -> str | None:
    """A text, or the first in a list of texts or of lists."""
    while isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, str) and value else None


def _leaf(record: Record, name: str) -> str:
    found = _first(record.get(name))
    return _text(record, name) if found is None else found


_FORMATS: Sequence[tuple[set[str], Callable[[Record, Labels], dict[str, Any]]]] = (
    ({"prompt", "target"}, _own),
    ({"requested_rewrite"}, _counterfact),
    ({"src", "ans"}, _zsre_malmen),
    ({"src"}, _zsre),
    ({"update", "ans"}, _wikibigedit),
    ({"equiv_prompt"}, _fever_malmen),
    ({"unrel_prompt"}, _fever_malmen),
    ({"claim"}, _fever),
    ({"target_new"}, _easyedit),
    ({"text", "labels"}, _wikibio),
    ({"prompt"}, _own),
    ({"target"}, _own),
    ({"input"}, _kilt),
)


def _question(record: Record, question: str, target: str) -> dict[str, Any]:
    fact: dict[str, Any] = {"prompt": question, "target": target}
    if record.get("subject") is not None:
        fact["subject"] = _text(record, "subject")
    rephrasings = _texts(record, "rephrase") + _texts(record, "filtered_rephrases")
    fact["rephrasings"] = [text for text in dict.fromkeys(rephrasings) if text != question]
    answers = _texts(record, "loc_ans")
    fact["locality"] = [_probe(text, answers[0] if answers else None) for text in _asked(record)]
    return fact


def _asked(record: Record) -> list[str]:
    """The unrelated questions of zsRE, which come without their question mark."""
    return [text if text.rstrip().endswith("?") else f"{text}?" for text in _texts(record, "loc")]


def _verdict(
    claim: str, label: str, at: str, labels: Labels, rephrasings: Sequence[str] = ()
) -> dict[str, Any]:
    word = VERDICTS.get(label.upper())
    if word is None:
        raise FactError(f"{label!r} is not a verdict.", f"Use one of: {', '.join(VERDICTS)}.", at)
    same = [text for text in dict.fromkeys(rephrasings) if text != claim]
    if labels:
        target = _own_label((label, word), labels, at)
        return {"prompt": claim, "target": target, "rephrasings": same, "locality": []}
    asked = [CLAIM.format(text) for text in same]
    return {"prompt": CLAIM.format(claim), "target": word, "rephrasings": asked, "locality": []}


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
        found = "missing" if value is None else f"of type {type(value).__name__}"
        wanted = {Mapping: "an object", list: "a list", str: "a text"}[kind]
        raise FactError(f"{name!r} is {found}.", f"It must be {wanted}.", f"{at}/{name}")
    return value


def _text(record: Record, name: str, at: str = "") -> str:
    text: str = _member(record, name, str, at)
    return text


def _texts(record: Record, name: str, at: str = "") -> list[str]:
    """A list of texts, or one text alone; empty if it is not there."""
    value = record.get(name)
    if value is None or isinstance(value, str):
        return [value] if value else []
    items = _member(record, name, list, at)
    for number, item in enumerate(items):
        if not isinstance(item, str):
            wrong = f"Item {number} of {name!r} is not a text."
            raise FactError(wrong, "Give texts only.", f"{at}/{name}/{number}")
    return list(items)

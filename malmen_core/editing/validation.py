"""What is wrong with facts before any model is run: texts that cannot be encoded, facts that contradict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from malmen_core.facts import Fact, normalise
from malmen_core.models.tokenization import encode_prompts

NO_TOKENS = "The target has no tokens. Give the text to answer with."
UNKNOWN = (
    "The tokenizer reads a part of the target as {!r}, which stands for whatever it does not know. "
    "Write the target in characters that it knows."
)


@dataclass(frozen=True)
class FactProblem:
    """What is wrong with one field of one fact.

    Attributes:
        pointer: JSON pointer, for example ``/facts/3/target``.
        detail: what is wrong and what to do.
    """

    pointer: str
    detail: str


def check_facts(
    tokenizer: Any, facts: Sequence[Fact], context_length: int, labels: Sequence[str] = ()
) -> list[FactProblem]:
    """Everything about these facts that cannot be edited as one set; an empty list means that all is well.

    Found are what `check_texts` finds, and facts that contradict each other (one normalised prompt, two
    targets), named pairwise, and prompts that are both changed and held.
    """
    found = check_texts(tokenizer, facts, context_length, labels)
    return found + _contradictions(facts) + _changed_and_held(facts)


def check_texts(
    tokenizer: Any, facts: Sequence[Fact], context_length: int, labels: Sequence[str] = ()
) -> list[FactProblem]:
    """Everything about these facts' texts that the model could not be given, fact by fact.

    Found are targets that tokenise to nothing or to the unknown token or, for a classifier, are none of its
    `labels`; and texts beyond the context. All texts are tokenised in one call, since a tokenizer's own
    overhead is that of hundreds of tokens.
    """
    if not facts:
        return []
    answered = [_answered(fact) for fact in facts]
    counts = iter(encode_prompts(tokenizer, [prompt for group in answered for _, prompt, _ in group]))
    texts = list(dict.fromkeys(target for group in answered for _, _, target in group))
    answers = _labelled(labels, texts) if labels else _answer_ids(tokenizer, texts)
    unknown = None if labels else tokenizer.unk_token_id
    remedy = f"Give one of the classifier's labels: {', '.join(labels)}." if labels else NO_TOKENS
    problems: list[FactProblem] = []
    for number, (fact, group) in enumerate(zip(facts, answered, strict=True)):
        problems += _unanswerable(fact, answers, remedy, f"/facts/{number}")
        if unknown in answers[fact.target]:
            problems.append(FactProblem(f"/facts/{number}/target", UNKNOWN.format(tokenizer.unk_token)))
        for name, _, target in group:
            found = _length_problem(
                f"/facts/{number}/{name}", len(next(counts)), len(answers[target]), context_length
            )
            problems += found
    return problems


def _answered(fact: Fact) -> list[tuple[str, str, str]]:
    """Every prompt of a fact: its field, its text, and the answer that will stand behind it."""
    return [
        ("prompt", fact.prompt, fact.target),
        *((f"rephrasings/{i}", text, fact.target) for i, text in enumerate(fact.rephrasings)),
        *(
            (f"locality/{i}/prompt", probe.prompt, fact.target if probe.target is None else probe.target)
            for i, probe in enumerate(fact.locality)
        ),
    ]


def _answer_ids(tokenizer: Any, targets: Sequence[str]) -> dict[str, list[int]]:
    """Tokens of each target as `encode` puts it, behind a space; none for one that has none by itself."""
    bare, joined = (
        tokenizer([space + target for target in targets], add_special_tokens=False)["input_ids"]
        for space in ("", " ")
    )
    return {
        target: with_space if alone and target.strip() else []
        for target, alone, with_space in zip(targets, bare, joined, strict=True)
    }


def _labelled(labels: Sequence[str], targets: Sequence[str]) -> dict[str, list[int]]:
    """The number of each target that is a label, which is one answer; nothing for any other."""
    return {target: [labels.index(target)] if target in labels else [] for target in targets}


def _unanswerable(
    fact: Fact, answers: Mapping[str, Sequence[int]], remedy: str, pointer: str
) -> list[FactProblem]:
    targets = [("target", fact.target)]
    targets += [
        (f"locality/{i}/target", probe.target)
        for i, probe in enumerate(fact.locality)
        if probe.target is not None
    ]
    return [FactProblem(f"{pointer}/{name}", remedy) for name, target in targets if not answers[target]]


def _length_problem(pointer: str, length: int, target_length: int, context_length: int) -> list[FactProblem]:
    if length == 0:
        return [FactProblem(pointer, "The text has no tokens. Give a prompt.")]
    if length + target_length <= context_length:
        return []
    detail = f"{length} tokens and a target of {target_length} exceed the context of {context_length}."
    return [FactProblem(pointer, f"{detail} Shorten it.")]


def _contradictions(facts: Sequence[Fact]) -> list[FactProblem]:
    first: dict[str, int] = {}
    problems = []
    for number, fact in enumerate(facts):
        earlier = first.setdefault(normalise(fact.prompt), number)
        if normalise(facts[earlier].target) != normalise(fact.target):
            detail = (
                f"Contradicts /facts/{earlier}/target: the same prompt, with the target "
                f"{facts[earlier].target!r}. "
                "Keep one of the two."
            )
            problems.append(FactProblem(f"/facts/{number}/target", detail))
    return problems


def _changed_and_held(facts: Sequence[Fact]) -> list[FactProblem]:
    held = {
        f"/facts/{number}/locality/{i}/prompt": normalise(probe.prompt)
        for number, fact in enumerate(facts)
        for i, probe in enumerate(fact.locality)
        if probe.hold
    }
    if not held:
        return []
    changed = {
        normalise(text): i for i, fact in enumerate(facts) for text in (fact.prompt, *fact.rephrasings)
    }
    return [
        FactProblem(
            pointer, f"/facts/{changed[text]} changes what is to be held here. Leave one of the two out."
        )
        for pointer, text in held.items()
        if text in changed
    ]

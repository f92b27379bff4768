"""What is wrong with facts before any model is run: texts that cannot be encoded, facts that contradict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from malmen_core.facts import PLACEHOLDER, Fact, Joiner, normalise
from malmen_core.models.tokenization import chat_prompt, encode_prompts, join

NO_TOKENS = "The target has no tokens. Give the text to answer with."
UNKNOWN = (
    "The tokenizer reads a part of the target as {!r}, which stands for whatever it does not know. "
    "Write the target in characters that it knows."
)
NO_SUBJECT = f"{PLACEHOLDER} stands for the subject, and the fact has none. Give it, or write the name out."


@dataclass(frozen=True)
class FactProblem:
    """What is wrong with one field of one fact.

    Attributes:
        pointer: JSON pointer, for example ``/facts/3/target``.
        detail: what is wrong and what to do.
    """

    pointer: str
    detail: str


@dataclass(frozen=True)
class _Text:
    """A text of a fact, with the answer that will stand behind it."""

    field: str
    prompt: str
    target: str
    joiner: Joiner = "auto"

    @property
    def answer(self) -> str:
        """What is written behind the prompt: the target with its joiner."""
        return join(self.prompt, self.target, self.joiner)[len(self.prompt) :]


def check_facts(
    tokenizer: Any, facts: Sequence[Fact], context_length: int, labels: Sequence[str] = ()
) -> list[FactProblem]:
    """Everything about these facts that cannot be edited as one set; an empty list means that all is well.

    Found are what `check_texts` finds, and facts that contradict each other (one normalised prompt or
    rephrasing, two targets), named pairwise, and prompts that are both changed and held.
    """
    found = check_texts(tokenizer, facts, context_length, labels)
    return found + _contradictions(facts) + _changed_and_held(facts)


def check_texts(
    tokenizer: Any, facts: Sequence[Fact], context_length: int, labels: Sequence[str] = ()
) -> list[FactProblem]:
    """Everything about these facts' texts that the model could not be given, fact by fact.

    Found are targets that tokenise to nothing or to the unknown token or, for a classifier, are none of its
    `labels`; placeholders without a subject; and texts beyond the context. All texts are tokenised in one call,
    since a tokenizer's own overhead is that of hundreds of tokens.
    """
    if not facts:
        return []
    groups = [_texts(fact, None if labels else tokenizer) for fact in facts]
    texts = [text for group in groups for text in group]
    counts = iter(map(len, encode_prompts(tokenizer, [text.prompt for text in texts])))
    if labels:
        answers, given, unknown = {text.answer: [0] for text in texts}, set(labels), None
        remedy = f"Give one of the classifier's labels: {', '.join(labels)}."
    else:
        answers = _tokens(tokenizer, [text.answer for text in texts])
        alone = _tokens(tokenizer, [text.target.strip() for text in texts])
        given = {text.target for text in texts if alone[text.target.strip()]}
        unknown, remedy = tokenizer.unk_token_id, NO_TOKENS
    problems: list[FactProblem] = []
    for number, (fact, group) in enumerate(zip(facts, groups, strict=True)):
        at = f"/facts/{number}"
        problems += [FactProblem(f"{at}/{name}", remedy) for name, own in _targets(fact) if own not in given]
        if unknown in answers[group[0].answer]:
            problems.append(FactProblem(f"{at}/target", UNKNOWN.format(tokenizer.unk_token)))
        for text in group:
            length = len(answers[text.answer])
            problems += _length_problem(f"{at}/{text.field}", next(counts), length, context_length)
        problems += [FactProblem(f"{at}/{field}", NO_SUBJECT) for field in _unfilled(fact)]
    return problems


def _texts(fact: Fact, chat_tokenizer: Any) -> list[_Text]:
    """Every prompt of a fact; with the question in chat form, where the tokenizer has one."""
    chat = None
    if fact.question is not None and chat_tokenizer is not None:
        chat = chat_prompt(chat_tokenizer, fact.question)
    own = [
        ("prompt", fact.prompt),
        *((f"rephrasings/{i}", text) for i, text in enumerate(fact.rephrasings)),
        *([] if chat is None else [("question", chat + fact.prompt)]),
    ]
    return [
        *(_Text(field, prompt, fact.target, fact.joiner) for field, prompt in own),
        *(
            _Text(f"locality/{i}/prompt", probe.prompt, fact.target if probe.target is None else probe.target)
            for i, probe in enumerate(fact.locality)
        ),
    ]


def _targets(fact: Fact) -> list[tuple[str, str]]:
    """The answers that a fact gives: field and text."""
    probes = [(f"locality/{i}/target", probe.target) for i, probe in enumerate(fact.locality)]
    return [("target", fact.target), *((field, text) for field, text in probes if text is not None)]


def _tokens(tokenizer: Any, texts: Sequence[str]) -> dict[str, list[int]]:
    """Tokens of each text, without those that a tokenizer puts around one."""
    unique = list(dict.fromkeys(texts))
    return dict(zip(unique, tokenizer(unique, add_special_tokens=False)["input_ids"], strict=True))


def _length_problem(pointer: str, length: int, target_length: int, context_length: int) -> list[FactProblem]:
    if length == 0:
        return [FactProblem(pointer, "The text has no tokens. Give a prompt.")]
    if length + target_length <= context_length:
        return []
    detail = f"{length} tokens and a target of {target_length} exceed the context of {context_length}."
    return [FactProblem(pointer, f"{detail} Shorten it.")]


def _unfilled(fact: Fact) -> list[str]:
    """Fields with a placeholder that no subject takes the place of."""
    if fact.subject is not None:
        return []
    rephrasings = {f"rephrasings/{i}": text for i, text in enumerate(fact.rephrasings)}
    texts = {"prompt": fact.prompt, "question": fact.question or "", **rephrasings}
    return [field for field, text in texts.items() if PLACEHOLDER in text]


def _changed(fact: Fact) -> dict[str, str]:
    """The normalised texts that a fact changes the answer to, and the field of each."""
    found = {normalise(fact.prompt): "prompt"}
    for i, text in enumerate(fact.rephrasings):
        found.setdefault(normalise(text), f"rephrasings/{i}")
    return found


def _contradictions(facts: Sequence[Fact]) -> list[FactProblem]:
    """Of each fact the first text that an earlier fact answers otherwise."""
    first: dict[str, tuple[int, str]] = {}
    problems = []
    for number, fact in enumerate(facts):
        found = None
        for text, field in _changed(fact).items():
            earlier, other = first.setdefault(text, (number, field))
            if normalise(facts[earlier].target) != normalise(fact.target) and found is None:
                found = field, earlier, other
        if found is not None:
            field, earlier, other = found
            own = "target" if field == "prompt" else field
            detail = (
                f"Contradicts /facts/{earlier}/{'target' if other == 'prompt' else other}: the same text, with "
                f"the target {facts[earlier].target!r} there and {fact.target!r} here. Keep one of the two."
            )
            problems.append(FactProblem(f"/facts/{number}/{own}", detail))
    return problems


def _changed_and_held(facts: Sequence[Fact]) -> list[FactProblem]:
    changed = {text: number for number, fact in enumerate(facts) for text in _changed(fact)}
    return [
        FactProblem(
            f"/facts/{number}/locality/{i}/prompt",
            f"/facts/{changed[text]} changes what is to be held here. Leave one of the two out.",
        )
        for number, fact in enumerate(facts)
        for i, probe in enumerate(fact.locality)
        if probe.hold and (text := normalise(probe.prompt)) in changed
    ]

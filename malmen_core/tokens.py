"""From facts to token ids: what the model reads, what it must answer, and at which token it is edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import AutoTokenizer

from malmen_core.errors import ModelNotLoadable, PromptTooLong
from malmen_core.facts import Fact, normalise

KeyPosition = Literal["answer", "subject"]


@dataclass(frozen=True)
class Encoded:
    """A prompt with its answer, as token ids.

    Attributes:
        ids: prompt and answer tokens.
        answer_start: index of the first answer token, at least 1; logits at ``answer_start - 1`` predict it.
        subject_last: index of the subject's last token in the prompt, or None.
    """

    ids: tuple[int, ...]
    answer_start: int
    subject_last: int | None = None

    @property
    def answer(self) -> tuple[int, ...]:
        """The answer's token ids."""
        return self.ids[self.answer_start :]

    def key_positions(self, where: KeyPosition) -> tuple[int, ...]:
        """Positions at which the edited modules are edited: the subject's last token, else those that answer.

        A fact whose subject is unknown or absent from the prompt falls back on its answer positions, the
        paper's form.
        """
        if where == "subject" and self.subject_last is not None:
            return (self.subject_last,)
        return tuple(range(self.answer_start - 1, len(self.ids) - 1))


@dataclass(frozen=True)
class FactProblem:
    """What is wrong with one field of one fact.

    Attributes:
        pointer: JSON pointer, for example ``/facts/3/target``.
        detail: what is wrong and what to do.
    """

    pointer: str
    detail: str


def load_tokenizer(source: str, revision: str | None = None) -> Any:
    """Load a fast tokenizer by hub id or folder.

    Raises:
        ModelNotLoadable: there is none, or it has no fast form (offsets are needed to find subjects).
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        raise ModelNotLoadable(
            f"No tokenizer could be loaded from {source!r}: {error}", "Check the id or folder.", "/source"
        ) from error
    if not tokenizer.is_fast:
        raise ModelNotLoadable(
            f"{source!r} has only a slow tokenizer.", "Convert it to tokenizer.json first.", "/source"
        )
    return tokenizer


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a prompt as the model is given it, with the tokenizer's own leading special tokens."""
    return list(tokenizer(prompt)["input_ids"])


def encode_prompts(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """`encode_prompt` for many prompts in one call of the tokenizer."""
    return list(tokenizer(list(prompts))["input_ids"]) if prompts else []


def encode(tokenizer: Any, prompt: str, target: str, subject: str | None = None) -> Encoded:
    """Encode a prompt with the answer that must follow it.

    Prompt and answer are tokenised as one text, because that is how the model would write the answer; if
    the prompt's
    tokens come out otherwise than alone (its last token merges with the answer), the two are tokenised apart.

    Args:
        tokenizer: a fast tokenizer.
        prompt: text in front of the answer.
        target: the answer; a space is put between, unless the prompt ends in white space.
        subject: text to find in the prompt (its last occurrence counts).
    """
    prompt_ids = encode_prompt(tokenizer, prompt)
    joined = join(prompt, target)
    joint_ids = encode_prompt(tokenizer, joined)
    if joint_ids[: len(prompt_ids)] == prompt_ids:
        ids = joint_ids
    else:
        ids = prompt_ids + list(tokenizer(joined[len(prompt) :], add_special_tokens=False)["input_ids"])
    return Encoded(tuple(ids), len(prompt_ids), subject_last_token(tokenizer, prompt, subject))


def join(prompt: str, target: str) -> str:
    """Prompt and answer as one text."""
    return prompt + target if prompt[-1:].isspace() else f"{prompt} {target}"


def subject_last_token(tokenizer: Any, prompt: str, subject: str | None) -> int | None:
    """Index of the token that holds the last character of the subject's last occurrence, or None."""
    if not subject:
        return None
    start = prompt.rfind(subject)
    if start < 0:
        start = prompt.casefold().rfind(subject.casefold())
    if start < 0 or start + len(subject) > len(prompt):
        return None
    index = tokenizer(prompt).char_to_token(start + len(subject) - 1)
    return None if index is None else int(index)


def check_length(encoded: Encoded, context_length: int, field: str) -> None:
    """Refuse a sequence that does not fit into the model's context.

    Raises:
        PromptTooLong: naming the field and both lengths.
    """
    if len(encoded.ids) > context_length:
        raise PromptTooLong(
            f"{len(encoded.ids)} tokens do not fit into a context of {context_length}.",
            "Shorten the prompt.",
            field,
        )


def check_facts(tokenizer: Any, facts: Sequence[Fact], context_length: int) -> list[FactProblem]:
    """Everything about these facts that the model could not be given; an empty list means that all is well.

    Found are: targets that tokenise to nothing, texts beyond the context, and facts that contradict each
    other (one normalised prompt, two targets), named pairwise. All texts are tokenised in one call, since a
    tokenizer's own overhead is that of hundreds of tokens.
    """
    if not facts:
        return []
    probes = [[probe.prompt for probe in fact.locality] for fact in facts]
    texts = [[fact.prompt, *fact.rephrasings, *found] for fact, found in zip(facts, probes, strict=True)]
    counts = iter(encode_prompts(tokenizer, [text for group in texts for text in group]))
    targets = tokenizer([fact.target for fact in facts], add_special_tokens=False)["input_ids"]
    problems: list[FactProblem] = []
    for number, (fact, group, target) in enumerate(zip(facts, texts, targets, strict=True)):
        lengths = [len(next(counts)) for _ in group]
        problems += _check_fact(fact, lengths, len(target), f"/facts/{number}", context_length)
    return problems + _contradictions(facts)


def _check_fact(
    fact: Fact, lengths: Sequence[int], target_length: int, pointer: str, context_length: int
) -> list[FactProblem]:
    """Judge one fact by the token counts of its prompt, rephrasings and locality prompts, in this order."""
    problems = []
    if not fact.target.strip() or target_length == 0:
        problems.append(
            FactProblem(f"{pointer}/target", "The target has no tokens. Give the text to answer with.")
        )
    named = [("prompt", lengths[0])]
    named += [(f"rephrasings/{i}", n) for i, n in enumerate(lengths[1 : 1 + len(fact.rephrasings)])]
    named += [(f"locality/{i}/prompt", n) for i, n in enumerate(lengths[1 + len(fact.rephrasings) :])]
    for name, length in named:
        if length == 0:
            problems.append(FactProblem(f"{pointer}/{name}", "The text has no tokens. Give a prompt."))
        elif length + target_length > context_length:
            detail = (
                f"{length} tokens and a target of {target_length} exceed the context of {context_length}. "
                "Shorten it."
            )
            problems.append(FactProblem(f"{pointer}/{name}", detail))
    return problems


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

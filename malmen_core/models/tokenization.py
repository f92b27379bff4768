"""From facts to token ids: what the model reads, what it must answer, and at which token it is edited."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from malmen_core.errors import ModelNotLoadable, PromptTooLong
from malmen_core.facts import Fact, normalise

KeyPosition = Literal["answer", "subject"]
NO_TOKENS = "The target has no tokens. Give the text to answer with."
UNKNOWN = (
    "The tokenizer reads a part of the target as {!r}, which stands for whatever it does not know. "
    "Write the target in characters that it knows."
)
CARRIERS = ("a", ".", "\n")


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

    @property
    def read(self) -> int:
        """How many tokens a model that writes the answer reads: all but the answer's last."""
        return max(self.answer_start, len(self.ids) - 1)

    def key_positions(self, where: KeyPosition) -> tuple[int, ...]:
        """Positions at which the edited modules are edited: the subject's last token, else those that answer.

        A fact whose subject is unknown or absent from the prompt falls back on its answer positions, the
        paper's form. A text's first token is not edited if there is another: it reads nothing but itself, and
        models rest their attention on it, so keys there are all alike; the one behind it reads the subject.
        """
        if where == "subject" and self.subject_last is not None:
            return (max(self.subject_last, min(1, self.answer_start - 1)),)
        return tuple(range(self.answer_start - 1, len(self.ids) - 1))


def longest(sequences: Iterable[Encoded]) -> int:
    """Tokens of the longest sequence; 0 if there is none."""
    return max((len(sequence.ids) for sequence in sequences), default=0)


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
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelNotLoadable(
            f"No tokenizer could be loaded from {source!r}: {error}", "Check the id or folder.", "/source"
        ) from error
    if not tokenizer.is_fast:
        raise ModelNotLoadable(
            f"{source!r} has only a slow tokenizer.", "Convert it to tokenizer.json first.", "/source"
        )
    known = tokenizer.decode(tokenizer("a")["input_ids"])
    if "a" not in known:  # without their files, some are made of nothing
        raise ModelNotLoadable(
            f"The tokenizer of {source!r} knows no text.", "Put its files into the folder.", "/source"
        )
    return tokenizer


def leave_open(tokenizer: Any) -> Any:
    """Keep a tokenizer from putting an end token behind a prompt, which is to be continued; gives it back."""
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    leading = next((n for n in range(len(whole)) if whole[n : n + len(alone)] == alone), 0)
    if len(whole) > leading + len(alone):
        pairs = list(zip(tokenizer.convert_ids_to_tokens(whole[:leading]), whole[:leading], strict=True))
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=[*(token for token, _ in pairs), "$A"], special_tokens=list(dict.fromkeys(pairs))
        )
    return tokenizer


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a prompt as the model is given it: the tokenizer's own leading special tokens once.

    A prompt that a chat template made may begin with them already.
    """
    return encode_prompts(tokenizer, [prompt])[0]


def encode_prompts(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """`encode_prompt` for many prompts in one call of the tokenizer."""
    return [ids for ids, _ in _read(tokenizer, prompts)]


Span = tuple[int, int]


def _read(tokenizer: Any, texts: Sequence[str]) -> list[tuple[list[int], list[Span]]]:
    """Token ids of each text, with the characters that they stand for, first and one behind the last."""
    if not texts:
        return []
    read = tokenizer(list(texts), return_offsets_mapping=True, return_special_tokens_mask=True)
    members = zip(read["input_ids"], read["offset_mapping"], read["special_tokens_mask"], strict=True)
    found = []
    for ids, offsets, added in members:
        front = added.index(0) if 0 in added else 0
        twice = front if ids[front : 2 * front] == ids[:front] else 0
        found.append((ids[twice:], offsets[twice:]))
    return found


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
        ids = prompt_ids + _continuation(tokenizer, prompt_ids, joined[len(prompt) :])
    return Encoded(tuple(ids), len(prompt_ids), subject_last_token(tokenizer, prompt, subject))


def _continuation(tokenizer: Any, prompt_ids: list[int], text: str) -> list[int]:
    """Tokens of a text that stands behind others, whatever the tokenizer would put in front of it alone.

    A tokenizer that marks the beginning of a word may mark that of a text too, so the text is also tried
    behind a character, whose tokens are cut off again; the first that reads as it should is taken.
    """
    wanted = plain_text(tokenizer, prompt_ids) + text
    tried = [list(tokenizer(text, add_special_tokens=False)["input_ids"])]
    for before in CARRIERS:
        carrier = list(tokenizer(before, add_special_tokens=False)["input_ids"])
        carried = list(tokenizer(before + text, add_special_tokens=False)["input_ids"])
        if carried[: len(carrier)] == carrier:
            tried.append(carried[len(carrier) :])
    return next((ids for ids in tried if plain_text(tokenizer, [*prompt_ids, *ids]) == wanted), tried[0])


def plain_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of some tokens, without special ones."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def join(prompt: str, target: str) -> str:
    """Prompt and answer as one text."""
    return prompt + target if prompt[-1:].isspace() else f"{prompt} {target}"


def subject_last_token(tokenizer: Any, prompt: str, subject: str | None) -> int | None:
    """Index of the last token that holds any of the last character of the subject's last occurrence, or None.

    A character may be several tokens (bytes): at the last of them the subject has been read whole.
    """
    end = _end_of_last(prompt, subject) if subject else None
    if end is None:
        return None
    _, offsets = _read(tokenizer, [prompt])[0]
    tokens = [index for index, (first, last) in enumerate(offsets) if first < last and first < end <= last]
    return tokens[-1] if tokens else None


def _end_of_last(prompt: str, subject: str) -> int | None:
    """Where the last occurrence ends in the prompt, in any case if there is none in its own."""
    start = prompt.rfind(subject)
    if start >= 0:
        return start + len(subject)
    folded = [character.casefold() for character in prompt]  # which may be longer than the character
    start = "".join(folded).rfind(subject.casefold())
    if start < 0:
        return None
    return bisect_left(list(accumulate(map(len, folded))), start + len(subject.casefold())) + 1


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

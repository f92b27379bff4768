"""From texts to token ids: what the model reads, what it must answer, and where its subject ends."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AutoTokenizer

from malmen_core.errors import FactError, ModelNotLoadable, PromptTooLong
from malmen_core.facts import Joiner

KeyPosition = Literal["answer", "subject"]
CARRIERS = ("a", ".", "\n")
END = -1
"""In place of a token id: no token that goes on inside the word. Any other may follow."""
UNSPACED = (
    "\u3000-\u30ff\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
)
"""Chinese and Japanese, which are written without spaces between words."""
CJK = re.compile(f"[{UNSPACED}]")


@dataclass(frozen=True)
class Encoded:
    """A prompt with its answer, as token ids.

    Attributes:
        ids: prompt and answer tokens.
        answer_start: index of the first answer token, at least 1; logits at ``answer_start - 1`` predict it.
        subject_last: index of the subject's last token in the prompt, or None.
        closed: whether the answer must end behind its last token, and not go on inside a word.
    """

    ids: tuple[int, ...]
    answer_start: int
    subject_last: int | None = None
    closed: bool = False

    @property
    def answer(self) -> tuple[int, ...]:
        """The answer's token ids."""
        return self.ids[self.answer_start :]

    @property
    def read(self) -> int:
        """How many tokens the model reads: all but the answer's last, unless what follows it counts."""
        return len(self.ids) if self.closed else max(self.answer_start, len(self.ids) - 1)

    def opened(self) -> Encoded:
        """The same, with an answer that may go on in any way."""
        return replace(self, closed=False)

    def key_positions(self, where: KeyPosition) -> tuple[int, ...]:
        """Positions at which the edited modules are edited: the subject's last token, else those that answer.

        A fact whose subject is unknown or absent from the prompt falls back on its answer positions, the
        paper's form. A text's first token is not edited if there is another: it reads nothing but itself, and
        models rest their attention on it, so keys there are all alike; the one behind it reads the subject.
        """
        if where == "subject" and self.subject_last is not None:
            return (max(self.subject_last, min(1, self.answer_start - 1)),)
        return tuple(range(self.answer_start - 1, self.read))


def longest(sequences: Iterable[Encoded]) -> int:
    """Tokens of the longest sequence; 0 if there is none."""
    return max((len(sequence.ids) for sequence in sequences), default=0)


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


def encode(
    tokenizer: Any, prompt: str, target: str, subject: str | None = None, joiner: Joiner = "auto"
) -> Encoded:
    """Encode a prompt with the answer that must follow it.

    Prompt and answer are tokenised as one text, because that is how the model would write the answer; if
    the prompt's tokens come out otherwise than alone (its last token merges with the answer), the two are
    tokenised apart.

    Args:
        tokenizer: a fast tokenizer.
        prompt: text in front of the answer.
        target: the answer, without white space around it.
        subject: text to find in the prompt.
        joiner: what stands between prompt and answer, see `join`.
    """
    prompt_ids = encode_prompt(tokenizer, prompt)
    joined = join(prompt, target, joiner)
    joint_ids = encode_prompt(tokenizer, joined)
    if joint_ids[: len(prompt_ids)] == prompt_ids:
        ids = joint_ids
    else:
        ids = prompt_ids + _continuation(tokenizer, prompt_ids, joined[len(prompt) :])
    closed = len(ids) > len(prompt_ids) and ends_in_word(target)
    return Encoded(tuple(ids), len(prompt_ids), subject_last_token(tokenizer, prompt, subject), closed)


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


def chat_prompt(tokenizer: Any, question: str) -> str | None:
    """A question as the user's turn of a chat, up to where the answer begins; None without a chat template."""
    if not tokenizer.chat_template:
        return None
    return chat_text(tokenizer, [{"role": "user", "content": question}])


def chat_text(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, answer: bool = True) -> str:
    """A conversation as the model's own chat template puts it.

    Args:
        tokenizer: of the model.
        messages: turns with a role and a content.
        answer: whether the beginning of the assistant's turn stands at the end.

    Raises:
        FactError: there is no template, or it does not take these turns.
    """
    if not tokenizer.chat_template:
        raise FactError("The model has no chat template.", "Give a text to continue.")
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(turn) for turn in messages], tokenize=False, add_generation_prompt=answer
        )
    except (TemplateError, ValueError, TypeError) as error:
        raise FactError(
            f"The model's chat template does not take these messages: {error}.", "Change their roles."
        ) from error
    return text


def plain_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of some tokens, without special ones."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def join(prompt: str, target: str, joiner: Joiner = "auto") -> str:
    """Prompt and answer as one text, with the joiner between them.

    Args:
        prompt: text in front of the answer.
        target: the answer; white space around it is dropped.
        joiner: a space, nothing, or ``auto``: a space, but nothing behind white space, an opening bracket,
            an opening quote or a currency sign, nor where either side is Chinese or Japanese.
    """
    target = target.strip()
    if joiner == "auto":
        joiner = "" if _joins_closely(prompt, target) else " "
    return f"{prompt}{joiner}{target}"


def _joins_closely(prompt: str, target: str) -> bool:
    last, before = prompt[-1:], prompt[-2:-1]
    if not last or last.isspace() or CJK.match(last) or CJK.match(target):
        return True
    if last in "\"'":  # straight quotes open where a word could begin
        return not before or before.isspace() or unicodedata.category(before) in ("Ps", "Pi")
    return unicodedata.category(last) in ("Ps", "Pi", "Sc")


def goes_on(answer: str, rest: str) -> bool:
    """Whether what follows an answer goes on inside its last word or number: ``74`` in ``743`` or ``74.3``."""
    last, following = answer[-1:], rest[:1]
    if not _in_word(last):
        return False
    decimal = following in (".", ",") and last.isdecimal() and rest[1:2].isdecimal()
    return decimal or _in_word(following)


def ends_in_word(target: str) -> bool:
    """Whether the word that a target ends with could go on."""
    return _in_word(target.strip()[-1:])


def _in_word(character: str) -> bool:
    """Whether a character is part of a word that spaces set apart: a letter, a digit, a mark on one of them."""
    if not character or CJK.match(character):
        return False
    return character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"


def continuing_tokens(tokenizer: Any, count: int) -> Tensor:
    """Which tokens go on inside a word that stands in front of them: X, bool.

    Args:
        tokenizer: of the model.
        count: X, rows of the output layer; those without a token never go on.
    """
    before = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    alone = plain_text(tokenizer, before)
    known = min(count, len(tokenizer))
    texts = tokenizer.batch_decode(
        [[*before, token] for token in range(known)],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    inside = [text.startswith(alone) and goes_on(alone, text[len(alone) :]) for text in texts]
    return torch.tensor(inside + [False] * (count - known))


def subject_last_token(tokenizer: Any, prompt: str, subject: str | None) -> int | None:
    """Index of the last token that holds any of the last character of the subject, or None.

    A character may be several tokens (bytes): at the last of them the subject has been read whole.
    """
    span = locate_subject(prompt, subject) if subject else None
    if span is None:
        return None
    _, offsets = _read(tokenizer, [prompt])[0]
    end = span[1]
    tokens = [index for index, (first, last) in enumerate(offsets) if first < last and first < end <= last]
    return tokens[-1] if tokens else None


def locate_subject(prompt: str, subject: str) -> Span | None:
    """Where a subject stands in a prompt, as whole words: of several places the one nearest to the answer.

    Texts are compared in one normal form (NFC, case folded), so spelling and case need not be the prompt's.

    Returns:
        The first character, and one behind the last; None if it stands nowhere.
    """
    folded, starts = _folded(prompt)
    wanted = "".join(_folded(subject.strip())[0])
    if not wanted:
        return None
    text = "".join(folded)
    places = []
    for found in re.finditer(f"(?={re.escape(wanted)})", text):
        start, end = found.start(), found.start() + len(wanted)
        goes_on_before = start > 0 and _in_word(text[start - 1]) and _in_word(wanted[0])
        if not goes_on_before and not goes_on(wanted[-1], text[end : end + 1]):
            places.append(start)
    if not places:
        return None
    owner = [i for i, part in enumerate(folded) for _ in part]
    return starts[owner[places[-1]]], starts[owner[places[-1] + len(wanted) - 1] + 1]


def _folded(text: str) -> tuple[list[str], list[int]]:
    """Each character with the marks that combine with it, in normal form; and where each begins, and the end."""
    starts = [i for i, character in enumerate(text) if i == 0 or not unicodedata.combining(character)]
    ends = [*starts, len(text)][1:]
    parts = [unicodedata.normalize("NFC", text[a:b]).casefold() for a, b in zip(starts, ends, strict=True)]
    return parts, [*starts, len(text)]


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

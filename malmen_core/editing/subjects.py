"""What a fact is about, found in its own texts when nobody has said it.

The key of an edit is taken where the subject has just been read. A rephrasing repeats the subject and little
else, and a locality prompt is of the same form about something else. So the subject is looked for among the
words that the prompt shares with its rephrasings and not with its locality prompts, and failing that, among
its names. Nothing but the fact is looked at, so a fact has the same subject in every set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from malmen_core.facts import Fact

Source = Literal["given", "found", "answer"]

WORD = re.compile(r"(?:[^\W\d_]\.){2,}|[^\W_]+(?:[.'’&/-]+[^\W_]+)*")
POSSESSIVE = re.compile(r"['’]s$")
PLAIN = """
a an the and or of in on at by to from for with as into near since is are was were be been being has have had
does do did can could will would what which who whom whose where when why how it its he she his her they their
this that these those there name please tell me i you we our your my not if
"""
LINKS = "of the and de la le du des del von van der den di da al el en y et"
FUNCTION_WORDS = frozenset(PLAIN.split())
INSIDE_NAMES = frozenset(LINKS.split())


@dataclass(frozen=True)
class Subject:
    """Where a fact's key is taken.

    Attributes:
        text: the subject as it stands in the prompt; None for keys at the answer's tokens.
        source: ``given`` with the fact, ``found``, or ``answer`` if there is none.
    """

    text: str | None
    source: Source


@dataclass(frozen=True)
class _Word:
    start: int
    end: int
    text: str
    capital: bool
    named: bool  # has a capital or a digit, and is no function word


def subject_of(fact: Fact) -> Subject:
    """The fact's own subject if its prompt holds it, else one that is found, else none."""
    if fact.subject and fact.subject.casefold() in fact.prompt.casefold():
        return Subject(fact.subject, "given")
    found = find_subject(fact.prompt, fact.rephrasings, [probe.prompt for probe in fact.locality])
    return Subject(found, "found" if found else "answer")


def find_subject(prompt: str, rephrasings: Sequence[str], locality: Sequence[str]) -> str | None:
    """The words of a prompt that it is about, verbatim; None if nothing tells.

    Args:
        prompt: text in front of the answer.
        rephrasings: the same in other words.
        locality: prompts about other things.
    """
    words = _words(prompt)
    same, others = ([_joined(_words(text)) for text in texts] for texts in (rephrasings, locality))
    shared = [span for text in same for span in _shared(words, text)]
    for spans in (shared, _names(words)):
        trimmed = {_trimmed(words, span, others) for span in spans}
        kept = [(i, j) for i, j in trimmed if i < j and not _held(words[i:j], others)]
        if kept:
            i, j = max(kept, key=lambda span: _worth(words, span, same))
            return prompt[words[_whole(words, i)].start : words[j - 1].end]
    return None


def _words(text: str) -> list[_Word]:
    found = []
    for match in WORD.finditer(text):
        word = POSSESSIVE.sub("", match[0])
        folded = word.casefold()
        named = any(c.isupper() or c.isdigit() for c in word) and folded not in FUNCTION_WORDS
        found.append(_Word(match.start(), match.start() + len(word), folded, word[0].isupper(), named))
    return found


def _joined(words: Sequence[_Word]) -> str:
    return f" {' '.join(word.text for word in words)} "


def _held(words: Sequence[_Word], texts: Sequence[str]) -> int:
    """How many texts hold these words."""
    return sum(_joined(words) in text for text in texts)


def _shared(words: Sequence[_Word], text: str) -> Iterator[tuple[int, int]]:
    """Maximal spans of words that stand in a text too."""
    end = 0
    for start in range(len(words)):
        longer = max(end, start)
        while longer < len(words) and _joined(words[start : longer + 1]) in text:
            longer += 1
        if longer > max(end, start):
            yield start, longer
            end = longer


def _names(words: Sequence[_Word]) -> Iterator[tuple[int, int]]:
    """Runs of capitalised words, and of what stands between them in names."""
    start = None
    for i, word in enumerate(words):
        if word.named:
            start = i if start is None else start
        elif start is not None and word.text not in INSIDE_NAMES:
            yield start, i
            start = None
    if start is not None:
        yield start, len(words)


def _trimmed(words: Sequence[_Word], span: tuple[int, int], others: Sequence[str]) -> tuple[int, int]:
    """From its first name to its last; without a name, less the words at its ends that tell nothing."""
    inside = range(*span)
    telling = [i for i in inside if words[i].named] or [
        i for i in inside if words[i].text not in FUNCTION_WORDS and not _held(words[i : i + 1], others)
    ]
    return (telling[0], telling[-1] + 1) if telling else (span[0], span[0])


def _worth(words: Sequence[_Word], span: tuple[int, int], same: Sequence[str]) -> tuple[int, ...]:
    """Names first, then what more rephrasings hold, then more names, more words, and what comes later."""
    names = sum(word.named for word in words[slice(*span)])
    return names > 0, _held(words[slice(*span)], same), names, span[1] - span[0], span[0]


def _whole(words: Sequence[_Word], start: int) -> int:
    """Where a name begins, of which a rephrasing may have repeated the last part."""
    while words[start].named and start > 0 and words[start - 1].capital and (start > 1 or words[0].named):
        start -= 1
    return start

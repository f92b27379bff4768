"""Facts in the prompt in place of an edit: what retrieval comes to, measured as editors are.

Nothing is edited. Before the model reads a prompt, the statements of all facts whose subject occurs in it are
put before it: at the beginning of the user's turn in a chat, else at the beginning of the text. That is what an
exact search by subject finds; a search by meaning finds less. Prompts that name no such subject stay as they
are, so nothing else changes; a locality prompt that names one is compared with what the base answers to it alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from malmen_core.editing.subjects import subject_of
from malmen_core.evaluation.evaluate import MEASURES, sample
from malmen_core.evaluation.verify import SHORT_ANSWER, CanaryRecord, record_canaries, verify
from malmen_core.facts import Fact
from malmen_core.generation.greedy import greedy_answers
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import intercepting
from malmen_core.models.tokenization import encode_prompts, locate_subject

Row = dict[str, Any]
MOST = 8
"""Statements before a prompt at most."""
MARK = "\u2042"


class Retrieval:
    """Puts what is known of the subjects in a prompt before it."""

    def __init__(self, base: BaseModel, facts: Sequence[Fact]) -> None:
        self.statements = [
            (subject_of(f).text, f"{f.prompt}{' ' if f.joiner == 'auto' else f.joiner}{f.target}.")
            for f in facts
        ]
        chat = base.chat_prompt(MARK)
        self.turn = None if chat is None else chat.partition(MARK)[0]

    def told(self, prompt: str) -> str:
        """A prompt with the statements before it; itself where nothing is known."""
        known = [text for subject, text in self.statements if subject and locate_subject(prompt, subject)]
        if not known:
            return prompt
        before = " ".join(known[:MOST]) + " "
        if self.turn is not None and prompt.startswith(self.turn):
            return self.turn + before + prompt.removeprefix(self.turn)
        return before + prompt


def rows(
    source: str, records: Sequence[Mapping[str, Any]], sizes: Sequence[int], seed: int, singles: int
) -> list[Row]:
    """A row for each number of facts, drawn as `errata evaluate` draws them.

    Args:
        source: hub id or folder of the model.
        records: facts as in the API.
        sizes: numbers of facts.
        seed: of the draw.
        singles: of how many facts, each alone, the row of one fact is the mean.
    """
    base = BaseModel.load(source)
    canaries = record_canaries(base)

    def drawn(n: int) -> list[Fact]:
        return list(map(Fact.from_json, sample(records, n, seed)))

    return [
        mean([measure(base, [fact], canaries) for fact in drawn(singles)])
        if n == 1
        else measure(base, drawn(n), canaries)
        for n in sizes
    ]


def mean(parts: Sequence[Row]) -> Row:
    """A row of the means of others' figures, where they are there."""
    known = {name: [part[name] for part in parts if part[name] is not None] for name in parts[0]}
    spent = known.pop("seconds")
    return {
        **{name: fmean(own) if own else None for name, own in known.items()},
        "n": 1,
        "seconds": {name: fmean(each[name] for each in spent) for name in spent[0]},
    }


def measure(base: BaseModel, facts: Sequence[Fact], canaries: CanaryRecord) -> Row:
    """One row, as `errata evaluate` gives it."""
    began = time.perf_counter()
    told = Retrieval(base, facts).told
    asked = [
        replace(
            fact,
            prompt=told(fact.prompt),
            question=fact.question and told(fact.question),
            rephrasings=tuple(map(told, fact.rephrasings)),
            locality=(),
        )
        for fact in facts
    ]
    summary = verify(base, base.version(Delta.empty()), asked, canaries).summary
    plain = [probe.prompt for fact in facts for probe in fact.locality]
    shares = _same(base, plain, list(map(told, plain)))
    kept = {
        "locality": sum(shares) / len(shares) if shares else None,
        "neighbours_unchanged": sum(share == 1 for share in shares) / len(shares) if shares else None,
    }
    return {
        "n": len(facts),
        **{name: {**summary, **kept}[name] for name in MEASURES},
        "canary_agreement": summary["canary_agreement"],
        "seconds": {"edit": 0.0, "verify": round(time.perf_counter() - began, 3)},
    }


def _same(base: BaseModel, before: Sequence[str], after: Sequence[str]) -> list[float]:
    """Of each prompt, the share of the base's first tokens that it also writes after the other prompt."""
    with intercepting(None):
        first, second = (
            greedy_answers(base, encode_prompts(base.tokenizer, texts), [SHORT_ANSWER] * len(texts))
            for texts in (before, after)
        )
    return [
        sum(a == b for a, b in zip(one, other, strict=False)) / max(len(one), len(other), 1)
        for one, other in zip(first, second, strict=True)
    ]

"""A fact: a prompt and the target that the model must continue it with."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Joiner = Literal["auto", " ", ""]
"""What stands between a prompt and its target; see `malmen_core.models.tokenization.join`."""
PLACEHOLDER = "{}"
"""Stands for the subject in the prompts of published data sets."""


@dataclass(frozen=True)
class LocalityPrompt:
    """A prompt whose answer must stay as it was.

    Attributes:
        prompt: text in front of the answer.
        target: answer tokens to compare on; without it, the base model's own greedy continuation is used.
        hold: whether the edit is made so that it stays, and not only measured by it.
    """

    prompt: str
    target: str | None = None
    hold: bool = False

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> LocalityPrompt:
        """Read the API's form; raises KeyError if ``prompt`` is absent."""
        return cls(record["prompt"], record.get("target"), bool(record.get("hold", False)))


@dataclass(frozen=True)
class Fact:
    """One correction.

    Attributes:
        prompt: text in front of the answer.
        target: the answer that the edited model must give.
        subject: what the fact is about, as it stands in `prompt`; None when unknown.
        rephrasings: the same question in other words, measured (and edited on request).
        locality: prompts that must keep their answers.
        question: the fact as a user would ask for it in a chat; None where it is not to hold there.
        joiner: what stands between prompt and target.
    """

    prompt: str
    target: str
    subject: str | None = None
    rephrasings: tuple[str, ...] = ()
    locality: tuple[LocalityPrompt, ...] = ()
    question: str | None = None
    joiner: Joiner = "auto"

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Fact:
        """Read the API's form; unknown members are ignored.

        White space around target and subject is dropped, and a subject takes the place of each ``{}`` in the
        prompts and the question.

        Args:
            record: at least ``prompt`` and ``target``.

        Raises:
            KeyError: if ``prompt`` or ``target`` is absent.
        """
        subject = (record.get("subject") or "").strip() or None

        def filled(text: str) -> str:
            return text if subject is None else text.replace(PLACEHOLDER, subject)

        question, joiner = record.get("question"), record.get("joiner")
        return cls(
            prompt=filled(record["prompt"]),
            target=record["target"].strip(),
            subject=subject,
            rephrasings=tuple(map(filled, record.get("rephrasings") or ())),
            locality=tuple(map(LocalityPrompt.from_json, record.get("locality") or ())),
            question=None if question is None else filled(question),
            joiner="auto" if joiner is None else joiner,
        )


def normalise(text: str) -> str:
    """Fold case, width and white space, so that two spellings of one prompt compare equal."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())

"""A fact: a prompt and the target that the model must continue it with."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from malmen_core.errors import FactError

Joiner = Literal["auto", " ", ""]
"""What stands between a prompt and its target; see `malmen_core.models.tokenization.join`."""
PLACEHOLDER = "{}"
"""Stands for the subject in the prompts of published data sets."""
ChatText = Callable[[list[dict[str, str]]], str]
"""Makes the text that a model reads of the turns of a conversation."""


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
    def from_json(cls, record: Mapping[str, Any], chat: ChatText | None = None) -> LocalityPrompt:
        """Read the API's form, which has a ``prompt``, or the ``messages`` of a conversation in its place.

        Raises:
            KeyError: both are absent.
            FactError: there are messages, and no way to make a text of them.
        """
        if (messages := record.get("messages")) is None:
            prompt = record["prompt"]
        elif chat is None:
            raise FactError("Messages need a model with a chat template.", "Give a prompt.")
        else:
            prompt = chat(messages)
        return cls(prompt, record.get("target"), bool(record.get("hold", False)))


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
    def from_json(cls, record: Mapping[str, Any], chat: ChatText | None = None) -> Fact:
        """Read the API's form; unknown members are ignored.

        White space around target and subject is dropped, and a subject takes the place of each ``{}`` in the
        prompts and the question.

        Args:
            record: at least ``prompt`` and ``target``.
            chat: the model's chat template, for locality prompts that are conversations.

        Raises:
            KeyError: if ``prompt`` or ``target`` is absent.
            FactError: a conversation cannot be put into a text; `field` is its JSON pointer in the record.
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
            locality=probes_from_json(record.get("locality") or (), chat),
            question=None if question is None else filled(question),
            joiner="auto" if joiner is None else joiner,
        )


def probes_from_json(
    records: Iterable[Mapping[str, Any]], chat: ChatText | None = None
) -> tuple[LocalityPrompt, ...]:
    """Read locality prompts; raises as `Fact.from_json`."""
    found = []
    for number, record in enumerate(records):
        try:
            found.append(LocalityPrompt.from_json(record, chat))
        except FactError as error:
            raise FactError(error.message, error.remedy, f"/locality/{number}/messages") from error
    return tuple(found)


def normalise(text: str) -> str:
    """Fold case, width and white space, so that two spellings of one prompt compare equal."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())

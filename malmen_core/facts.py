"""A fact: a prompt and the target that the model must continue it with."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Probe:
    """A locality prompt: what the model says here must stay as it was.

    Attributes:
        prompt: text in front of the answer.
        target: answer tokens to compare on; without it, the base model's own greedy continuation is used.
        hold: whether the edit is made so that it stays, and not only measured by it.
    """

    prompt: str
    target: str | None = None
    hold: bool = False

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Probe:
        """Read the API's form; raises KeyError if ``prompt`` is absent."""
        return cls(record["prompt"], record.get("target"), bool(record.get("hold", False)))


@dataclass(frozen=True)
class Fact:
    """One correction.

    Attributes:
        prompt: text in front of the answer.
        target: the answer that the edited model must give.
        subject: what the fact is about, verbatim in `prompt`; None when unknown.
        rephrasings: the same question in other words, measured (and edited on request).
        locality: prompts that must keep their answers.
    """

    prompt: str
    target: str
    subject: str | None = None
    rephrasings: tuple[str, ...] = ()
    locality: tuple[Probe, ...] = ()

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Fact:
        """Read the API's form; unknown members are ignored.

        Args:
            record: at least ``prompt`` and ``target``.

        Raises:
            KeyError: if ``prompt`` or ``target`` is absent.
        """
        return cls(
            prompt=record["prompt"],
            target=record["target"],
            subject=record.get("subject"),
            rephrasings=tuple(record.get("rephrasings") or ()),
            locality=tuple(map(Probe.from_json, record.get("locality") or ())),
        )


def normalise(text: str) -> str:
    """Fold case, width and white space, so that two spellings of one prompt compare equal."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())

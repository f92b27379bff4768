"""Questions: what a fact answers, as digests that can be looked up without reading older facts' text.

Two facts answer one question if their prompts are the same but for case, width and white space, or if they
have the same subject and the prompt of one is a rephrasing of the other.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable


def normalise(text: str) -> str:
    """Fold case, width and white space, so that two spellings of one prompt compare equal."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _digest(*parts: str) -> str:
    text = "\0".join((parts[0], *(normalise(part) for part in parts[1:])))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def index_keys(prompt: str, subject: str | None, rephrasings: Iterable[str]) -> set[str]:
    """Return the digests under which a fact is found."""
    found = {_digest("prompt", prompt)}
    if subject:
        found |= {_digest("asked", subject, prompt)}
        found |= {_digest("rephrased", subject, text) for text in rephrasings}
    return found


def lookup_keys(prompt: str, subject: str | None, rephrasings: Iterable[str]) -> set[str]:
    """Return the digests by which a fact finds those that answer the same question.

    The relation is symmetric: `lookup_keys` of one meets `index_keys` of the other, or neither does.
    """
    found = {_digest("prompt", prompt)}
    if subject:
        found |= {_digest("rephrased", subject, prompt)}
        found |= {_digest("asked", subject, text) for text in rephrasings}
    return found

"""An answer's text as its tokens come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from malmen_core.models.tokenization import plain_text


class StreamedText:
    """Turns tokens into text piece by piece, holding back what may still change or begin a stop string.

    It is read behind the last tokens of the prompt, since some tokenizers drop the space in front of a text.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], before: Sequence[int] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, [s for s in stop if s]
        self.ids = list(before)
        self.sent = 0
        self.start = len(plain_text(tokenizer, self.ids))

    def push(self, token: int) -> tuple[str, bool]:
        """Add a token: the new certain text, and whether a stop string was reached."""
        self.ids.append(token)
        full = self._decode()
        ends = [at for s in self.stop if (at := full.find(s, max(0, self.sent - len(s)))) >= 0]
        if ends:
            return self._send(full[: min(ends)]), True
        return self._send(full[: len(full) - self._held(full)]), False

    def rest(self) -> str:
        """What was held back."""
        return self._send(self._decode())

    def _held(self, full: str) -> int:
        if full.endswith("\ufffd"):
            return len(full) - self.sent
        return max((n for s in self.stop for n in range(1, len(s)) if full.endswith(s[:n])), default=0)

    def _send(self, text: str) -> str:
        piece = text[self.sent :]
        self.sent = max(self.sent, len(text))
        return piece

    def _decode(self) -> str:
        return plain_text(self.tokenizer, self.ids)[self.start :]

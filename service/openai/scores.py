"""Log-probabilities of tokens in OpenAI's two forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.tokenizers import ModelTokenizer

Score = Sequence[Any]
"""A token's id, its log-probability (None where nothing predicts it), and pairs of both for the best ones."""
TAIL = 8


class Scores:
    """Puts tokens into words as they come, each where it stands."""

    def __init__(self, tokenizer: ModelTokenizer, before: Sequence[int]) -> None:
        """`before` are the ids of the tokens in front."""
        self._tokenizer = tokenizer
        self._ids = list(before)
        self._offset = 0
        self._names: dict[int, str] = {}

    def completion(self, scores: Sequence[Score]) -> dict[str, Any]:
        """The form of completions: a list for each member."""
        texts, offsets, best = self._texts(scores), [], []
        for (token, own, top), text in zip(scores, texts, strict=True):
            offsets.append(self._offset)
            self._offset += 0 if self._tokenizer.is_special(token) else len(text)
            named: dict[str, float] = {}
            for other, value in [*top, *([] if own is None else [(token, own)])]:
                named.setdefault(text if other == token else self._name(other), value)
            best.append(None if own is None else named)
        return {
            "tokens": texts,
            "token_logprobs": [own for _, own, _ in scores],
            "top_logprobs": best,
            "text_offset": offsets,
        }

    def chat(self, scores: Sequence[Score]) -> dict[str, Any]:
        """The form of chat completions: an object for each token."""
        texts = self._texts(scores)
        return {
            "content": [
                {
                    **_entry(text, own),
                    "top_logprobs": [
                        _entry(text if other == token else self._name(other), value) for other, value in top
                    ],
                }
                for (token, own, top), text in zip(scores, texts, strict=True)
            ]
        }

    def _texts(self, scores: Sequence[Score]) -> list[str]:
        before = self._ids[-TAIL:]
        ids = [token for token, _, _ in scores]
        self._ids = [*before, *ids]
        return self._tokenizer.texts([*before, *ids])[len(before) :]

    def _name(self, token: int) -> str:
        if token not in self._names:
            (self._names[token],) = self._tokenizer.texts([token])
        return self._names[token]


def _entry(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "logprob": value, "bytes": list(text.encode())}

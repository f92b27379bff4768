"""Log-probabilities of tokens: of those that were written, and of a prompt's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

POSITIONS = 256
"""Positions whose distributions are in memory at once."""
CONTEXT = 6


@dataclass(frozen=True)
class TokenScore:
    """A token at its place.

    Attributes:
        token: its id.
        logprob: natural logarithm of its probability, before temperature and nucleus; None for the first of a
            prompt, which nothing predicts.
        top: the most probable tokens at this place, the first one first, each with its own.
    """

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


def score(logits_LX: Tensor, tokens_L: Sequence[int], top: int) -> list[TokenScore]:
    """What is made of tokens where the logits (L × X, any dtype and device) predict them.

    Args:
        logits_LX: predictions.
        tokens_L: a token for each.
        top: how many of the most probable are named.
    """
    found: list[TokenScore] = []
    for start in range(0, len(tokens_L), POSITIONS):
        chosen = tokens_L[start : start + POSITIONS]
        logprobs_LX = logits_LX[start : start + len(chosen)].float().log_softmax(-1)
        own_L = logprobs_LX.gather(1, torch.tensor(chosen, device=logprobs_LX.device)[:, None])[:, 0]
        best = logprobs_LX.topk(min(top, logprobs_LX.shape[1]))
        for token, own, values, ids in zip(
            chosen, own_L.tolist(), best.values.tolist(), best.indices.tolist(), strict=True
        ):
            found.append(TokenScore(token, own, tuple(zip(ids, values, strict=True))))
    return found


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token where it stands, special tokens included.

    A token that ends within a character has none; the next one has the character.
    """
    texts: list[str] = []
    first, shown = 0, 0
    for end in range(1, len(ids) + 1):
        before = _decode(tokenizer, ids[first:shown])
        whole = _decode(tokenizer, ids[first:end])
        if whole.endswith("\ufffd") and end < len(ids):
            texts.append("")
            continue
        texts.append(whole[len(before) :])
        first, shown = max(shown, end - CONTEXT), end
    return texts


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text

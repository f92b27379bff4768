"""Choosing a token by its logits."""

from __future__ import annotations

import torch
from torch import Tensor

from malmen_core.errors import AnswerNotFinite


def choose(logits_X: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """The next token: the most probable one at temperature 0, else one that is drawn from the nucleus.

    Raises:
        AnswerNotFinite: there is nothing to choose by.
    """
    if not logits_X.max().isfinite():
        raise AnswerNotFinite(
            "The model's logits are infinite or not numbers.", "Ask another version, or a shorter prompt."
        )
    if temperature == 0:
        return int(logits_X.argmax())
    p_X, token_X = (logits_X / temperature).softmax(0).sort(descending=True)
    kept = p_X.cumsum(0) - p_X < top_p
    return int(token_X[torch.multinomial(p_X * kept, 1, generator=generator)])

"""Text that the base model writes itself, sampled: what an editor is calibrated on.

MEMIT (Meng et al. 2023) takes its covariance from Wikipedia. Here the base model writes the text, from short
openings of many kinds, so a new model needs no corpus: what it says of its own accord is what an edit should
leave alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from malmen_core.models.base import BaseModel
from malmen_core.models.overlay import intercepting
from malmen_core.models.tokenization import Encoded, encode_prompts

SAMPLE_TOKENS = 48
SAMPLE_BATCH = 64


def sample_continuations(
    base: BaseModel,
    prompts: Sequence[str],
    *,
    tokens: int = SAMPLE_TOKENS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Encoded]:
    """Let the base model continue each prompt, sampling at temperature 1 without ending early.

    Args:
        base: the base model.
        prompts: beginnings.
        tokens: length of each continuation.
        seed: of the sampling; the same seed gives the same text on one device, in any memory.
        progress: told (prompts done, prompts).

    Returns:
        Prompts with their continuations, in the prompts' order.

    Raises:
        OutOfDeviceMemory: a prompt and its continuation do not fit.
    """
    encoded = encode_prompts(base.tokenizer, prompts)
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), i))
    texts: list[Encoded] = [Encoded(tuple(ids), len(ids)) for ids in encoded]
    draws = torch.Generator(base.device).manual_seed(seed)
    with torch.inference_mode(), intercepting(None):
        for start in range(0, len(order), SAMPLE_BATCH):
            chosen = order[start : start + SAMPLE_BATCH]
            written = _sample(base, [encoded[i] for i in chosen], tokens, draws)
            for i, answer in zip(chosen, written, strict=True):
                texts[i] = Encoded((*encoded[i], *answer), len(encoded[i]))
            if progress is not None:
                progress(start + len(chosen), len(order))
    return texts


def _sample(
    base: BaseModel, prompts: Sequence[list[int]], tokens: int, draws: torch.Generator
) -> list[list[int]]:
    """Answers to one batch; what is drawn for a prompt is the same however many are answered at a time."""
    before = draws.get_state()

    def write(rows: slice) -> list[list[int]]:
        draws.set_state(before)
        exactly: dict[str, Any] = {"min_new_tokens": tokens, "max_new_tokens": tokens}
        drawn = partial(_weighed, draws, len(prompts), rows)
        return base.task.generate(base.model, prompts[rows], base.pad_id, logits_processor=[drawn], **exactly)

    return base.memory.generate(prompts, tokens, write)


def _weighed(draws: torch.Generator, count: int, rows: slice, _ids_BL: Tensor, logits_BX: Tensor) -> Tensor:
    """Scores whose largest is the token drawn: ``p / q``, ``q`` exponential, as in `torch.multinomial`.

    Noise is drawn for all `count` rows of a batch, of which these are some.
    """
    noise_RX = logits_BX.new_empty(count, logits_BX.shape[1]).exponential_(generator=draws)
    return logits_BX.softmax(1) / noise_RX[rows]

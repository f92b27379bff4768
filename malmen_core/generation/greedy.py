"""Greedy answers to many prompts, in batches, with whatever overlay is active."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from malmen_core.models.base import BaseModel
from malmen_core.models.tasks.base import Finished

GREEDY_BATCH = 128


def greedy_answers(
    base: BaseModel,
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[int],
    finished: Finished | None = None,
) -> list[list[int]]:
    """Greedy continuations of encoded prompts: at every step the token of the largest logit.

    Decoding takes nothing else from the checkpoint than the tokens that end an answer (`BaseModel` sees to
    that), so it is what `BatchGenerator` gives at temperature 0.

    Args:
        base: the base model.
        prompts: token ids.
        lengths: tokens of each answer at most; an answer is shorter if it ends by itself. A label is one.
        finished: told a prompt's number and the answer so far; ends it earlier.

    Raises:
        OutOfDeviceMemory: a prompt and its continuation do not fit.
    """
    order = sorted(range(len(prompts)), key=lambda i: (lengths[i], len(prompts[i]), i))
    answers: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), GREEDY_BATCH):
        chosen = order[start : start + GREEDY_BATCH]
        tokens = max(lengths[i] for i in chosen)

        def answer(rows: slice, chosen: Sequence[int] = chosen, tokens: int = tokens) -> list[list[int]]:
            some = chosen[rows]
            enough = None if finished is None else _by_row(finished, some)
            with torch.inference_mode():
                return base.task.generate(
                    base.model, [prompts[i] for i in some], base.pad_id, enough, max_new_tokens=tokens
                )

        written = base.memory.generate([prompts[i] for i in chosen], tokens, answer)
        for i, ids in zip(chosen, written, strict=True):
            answers[i] = until_stop(ids[: lengths[i]], base.stop_ids)
    return answers


def _by_row(finished: Finished, numbers: Sequence[int]) -> Finished:
    return lambda row, ids: finished(numbers[row], ids)


def until_stop(ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    """Tokens in front of the first that ends an answer."""
    for n, token in enumerate(ids):
        if token in stop_ids:
            return ids[:n]
    return ids

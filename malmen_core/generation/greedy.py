"""Greedy answers to many prompts, in batches, with whatever overlay is active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from malmen_core.facts import Probe
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded, encode_prompts

GREEDY_BATCH = 32
LOCALITY_TOKENS = 3
GREEDY: Mapping[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
"""What `Task.respond` must be told to take the token of the largest score, whatever the checkpoint says."""


def greedy_tokens(base: BaseModel, prompts: Sequence[str], lengths: Sequence[int]) -> list[list[int]]:
    """Greedy continuations of many prompts, in batches, with whatever overlay is active.

    Args:
        base: the base model.
        prompts: texts to continue.
        lengths: tokens wanted of each; a continuation is shorter if it ends by itself. A label is one.

    Raises:
        OutOfDeviceMemory: a prompt and its continuation do not fit.
    """
    encoded = encode_prompts(base.tokenizer, prompts)
    order = sorted(range(len(prompts)), key=lambda i: (lengths[i], len(encoded[i]), i))
    answers: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), GREEDY_BATCH):
        chosen = order[start : start + GREEDY_BATCH]
        asked, tokens = [encoded[i] for i in chosen], max(lengths[i] for i in chosen)
        rows = base.room.writing(asked, tokens, partial(_continue, base, asked, tokens))
        for i, row in zip(chosen, rows, strict=True):
            answers[i] = _until_stop(row[: lengths[i]], base.stop_ids)
    return answers


def _continue(base: BaseModel, prompts: Sequence[list[int]], tokens: int, rows: slice) -> list[list[int]]:
    with torch.inference_mode():
        return base.task.respond(base, prompts[rows], max_new_tokens=tokens, **GREEDY)


def own_answers(base: BaseModel, prompts: Sequence[str], tokens: int) -> list[Encoded]:
    """Prompts with the active weights' greedy continuation; one that ends at once keeps its end token."""
    answers = greedy_tokens(base, prompts, [tokens] * len(prompts))
    end = min(base.stop_ids, default=base.pad_id)
    encoded = encode_prompts(base.tokenizer, prompts)
    return [
        Encoded((*ids, *(answer or [end])), len(ids)) for ids, answer in zip(encoded, answers, strict=True)
    ]


def probe_answers(base: BaseModel, probes: Sequence[Probe]) -> list[Encoded]:
    """Locality prompts with the answers that are compared: those given, else the active weights' own."""
    own = iter(own_answers(base, [p.prompt for p in probes if p.target is None], LOCALITY_TOKENS))
    return [next(own) if p.target is None else base.encode(p.prompt, p.target) for p in probes]


def _until_stop(ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    for n, token in enumerate(ids):
        if token in stop_ids:
            return ids[:n]
    return ids

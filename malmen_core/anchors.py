"""Anchors: prompts in the neighbourhood of a fact, which its edit must leave alone.

What an edit disturbs first are prompts of its own form about something else ("The capital of Peru is"
beside "The
capital of Australia is"). So each fact's prompt is run on the base with other names in the subject's place,
and used twice:

- its keys join the fact's rows with a value difference of zero. They are rows like any other: sums stay
sums, and a fact
  that is withdrawn takes its anchors with it;
- the base model's own answers to some of these prompts are sequences that refinement has to keep.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from malmen_core.base import BaseModel
from malmen_core.capture import keys_everywhere
from malmen_core.facts import Fact
from malmen_core.generate import own_answers
from malmen_core.prior import entity_names, left_pad
from malmen_core.tokens import Encoded, encode_prompts


def anchor_prompts(fact: Fact, count: int) -> list[str]:
    """The fact's prompt with other names in its subject's place; empty if it has no subject.

    The names are drawn by the prompt's own text, so a fact has the same anchors in every set.
    """
    if not fact.subject or fact.subject not in fact.prompt:
        return []
    names = [name for name in entity_names() if name != fact.subject]
    drawn = random.Random(fact.prompt).sample(names, min(count, len(names)))
    return [fact.prompt.replace(fact.subject, name) for name in drawn]


def anchor_rows(
    base: BaseModel, prompts: Sequence[Sequence[str]], rank: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Anchor keys of each fact, compressed.

    Args:
        base: the base model, unedited.
        prompts: anchor prompts by fact.
        rank: rows kept for each fact and module.

    Returns:
        Keys by module (T × U, float32 at least, on the CPU), and the fact of each row (int64, T).
    """
    owners = [i for i, group in enumerate(prompts) if group and rank > 0]
    rows: dict[str, list[Tensor]] = {name: [] for name in base.modules}
    for i in owners:
        keys = keys_everywhere(base, *left_pad(base, encode_prompts(base.tokenizer, prompts[i])))
        for name, keys_NU in keys.items():
            rows[name].append(compress(keys_NU, rank).cpu())
    fact_T = torch.tensor([i for i in owners for _ in range(rank)], dtype=torch.int64)
    empty = {name: torch.zeros(0, module.shape[0]) for name, module in base.modules.items()}
    return {name: torch.cat(parts) if parts else empty[name] for name, parts in rows.items()}, fact_T


def compress(keys_NU: Tensor, rank: int) -> Tensor:
    """The rows ``R`` whose ``R'R`` is closest to ``N'N``: R × U; zero rows where `N` has fewer.

    Only ``N'N`` enters the normal equation, and anchor keys are much alike, so a few scaled eigenvectors
    carry it.
    """
    keys = keys_NU.double()
    vectors = torch.linalg.eigh(keys @ keys.T).eigenvectors[:, -rank:]
    kept = vectors.T @ keys
    padding = kept.new_zeros(rank - kept.shape[0], kept.shape[1])
    return torch.cat([kept, padding]).to(keys_NU.dtype)


def anchor_sequences(
    base: BaseModel, prompts: Sequence[Sequence[str]], count: int, tokens: int
) -> tuple[list[Encoded], list[int]]:
    """Some anchor prompts of each fact with the base model's own greedy answer.

    Args:
        base: the base model, unedited.
        prompts: anchor prompts by fact.
        count: how many of each fact's.
        tokens: length of an answer.

    Returns:
        The sequences, and the fact of each.
    """
    chosen = [(i, prompt) for i, group in enumerate(prompts) for prompt in group[:count]]
    return own_answers(base, [prompt for _, prompt in chosen], tokens), [i for i, _ in chosen]

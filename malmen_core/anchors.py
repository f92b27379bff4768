"""Anchors: prompts in the neighbourhood of a fact, which its edit must leave alone.

What an edit disturbs first are prompts of its own form about something else ("The capital of Peru is"
beside "The capital of Australia is"). So each fact's prompt is run on the base with other names in the
subject's place, and its keys join the fact's rows with a value difference of zero. They are rows like any
other: sums stay sums, and a fact that is withdrawn takes its anchors with it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from malmen_core.base import BaseModel
from malmen_core.capture import keys_by_group, keys_everywhere
from malmen_core.prior import entity_kinds
from malmen_core.tokens import Encoded, encode_prompts, subject_last_token


@dataclass(frozen=True)
class Kinds:
    """How to tell what kind of thing a subject is, from its key in the first edited module.

    Attributes:
        centroids: mean key by kind, U each.
    """

    centroids: Mapping[str, Tensor]

    def nearest(self, key_U: Tensor) -> str | None:
        """The kind whose mean key is closest in direction, seen from the mean of all; None without kinds."""
        names = list(self.centroids)
        if not names:
            return None
        centroids_GU = torch.stack([self.centroids[name].double() for name in names])
        centre = centroids_GU.mean(0)
        likeness = cosine_similarity(centroids_GU - centre, (key_U.double() - centre)[None])
        return names[int(likeness.argmax())]


def fit_kinds(base: BaseModel) -> Kinds:
    """Mean key of each packaged kind's names, each in the first statement of its kind."""
    centroids = {}
    for name, kind in entity_kinds().items():
        sequences = [subject_only(base, kind.templates[0].format(entity), entity) for entity in kind.names]
        keys_NU = next(iter(keys_everywhere(base, sequences).values()))
        starts = torch.tensor([0, *(len(sequence.ids) for sequence in sequences)]).cumsum(0)[:-1]
        last = torch.tensor([sequence.subject_last or 0 for sequence in sequences])
        centroids[name] = keys_NU[(starts + last).to(keys_NU.device)].mean(0).cpu()
    return Kinds(centroids)


def subject_only(base: BaseModel, prompt: str, subject: str) -> Encoded:
    """A prompt without an answer, with its subject located."""
    ids = encode_prompts(base.tokenizer, [prompt])[0]
    return Encoded(tuple(ids), len(ids), subject_last_token(base.tokenizer, prompt, subject))


def anchor_prompts(prompt: str, subject: str | None, kind: str | None, count: int) -> list[str]:
    """A fact's prompt with other names in its subject's place; empty if it has no subject.

    Names are of the subject's own kind, and a quarter of any kind. They are drawn by the prompt's own text,
    so a fact has the same anchors in every set.
    """
    if not subject or subject not in prompt or count == 0:
        return []
    draw = random.Random(prompt)
    everything = [name for each in entity_kinds().values() for name in each.names]
    like = draw.sample(entity_kinds()[kind].names if kind else everything, count - count // 4)
    other = draw.sample(everything, count // 4)
    return [prompt.replace(subject, name) for name in (*like, *other) if name != subject]


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
    encoded = [encode_prompts(base.tokenizer, prompts[i]) for i in owners]
    for keys in keys_by_group(base, [[Encoded(tuple(ids), len(ids)) for ids in group] for group in encoded]):
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
    keys_NU = keys_NU[keys_NU.any(1)]  # those of another stack are zero, and eigh fails on many of them
    vectors = torch.linalg.eigh(keys_NU @ keys_NU.T).eigenvectors[:, -rank:]
    kept = vectors.T @ keys_NU
    return torch.cat([kept, kept.new_zeros(rank - kept.shape[0], kept.shape[1])])

"""Anchors: prompts in the neighbourhood of a fact, which its edit must leave alone.

What an edit disturbs first are prompts of its own form about something else ("The capital of Peru is"
beside "The capital of Australia is"). So each fact's prompt is run on the base with other names in the
subject's place, and its keys join the fact's rows with a value difference of zero. They are rows like any
other: sums stay sums, and a fact that is withdrawn takes its anchors with it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from malmen_core.editing.capture import keys_by_group, keys_everywhere, rows_at
from malmen_core.editing.covariance import entity_kinds
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded, encode_prompts, subject_last_token

NUMBER = re.compile("(?<![0-9])[0-9]{1,9}(?![0-9])")
STEPS = (-2, -1, 1, 2)


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
        centroids[name] = keys_NU[_last_tokens(sequences)].mean(0).cpu()
    return Kinds(centroids)


def subject_only(base: BaseModel, prompt: str, subject: str) -> Encoded:
    """A prompt without an answer, with its subject located."""
    ids = encode_prompts(base.tokenizer, [prompt])[0]
    return Encoded(tuple(ids), len(ids), subject_last_token(base.tokenizer, prompt, subject))


@dataclass(frozen=True)
class Neighbour:
    """A fact's prompt about something else.

    Attributes:
        prompt: with another name in the subject's place.
        name: that name.
        held: whether its keys are anchors; others are looked at only.
    """

    prompt: str
    name: str
    held: bool = True


def neighbours(prompt: str, subject: str | None, kind: str | None, count: int) -> list[Neighbour]:
    """A fact's prompt with other names in its subject's place; empty if it has no subject.

    Names are of the subject's own kind, and a quarter of any kind. They are drawn by the prompt's own text,
    so a fact has the same anchors in every set. A name with a number in it is also looked at with others:
    their keys are so much alike that holding them would hold the fact too.
    """
    if not subject or subject not in prompt or count == 0:
        return []
    draw = random.Random(prompt)
    everything = [name for each in entity_kinds().values() for name in each.names]
    like = draw.sample(entity_kinds()[kind].names if kind else everything, count - count // 4)
    other = draw.sample(everything, count // 4)
    held = [Neighbour(prompt.replace(subject, name), name) for name in (*like, *other) if name != subject]
    numbered = renumbered(subject)
    return held + [Neighbour(prompt.replace(subject, name), name, held=False) for name in numbered]


def renumbered(name: str) -> list[str]:
    """A name with its first number a little higher or lower; empty if there is no number in it."""
    number = NUMBER.search(name)
    if number is None:
        return []
    digits = len(number.group())
    found = [int(number.group()) + step for step in STEPS]
    return [f"{name[: number.start()]}{each:0{digits}}{name[number.end() :]}" for each in found if each >= 0]


@dataclass(frozen=True)
class Anchors:
    """What the base gives its edited modules at the neighbours of some facts.

    Attributes:
        keys: anchor keys by module, those of each fact compressed: T × U, float32 at least, on the CPU.
        fact_T: the fact of each row; int64.
        named: keys by module at the last token of each neighbour's name: N × U, likewise.
        fact_N: the fact of each neighbour; int64.
    """

    keys: Mapping[str, Tensor]
    fact_T: Tensor
    named: Mapping[str, Tensor]
    fact_N: Tensor

    def joined(self, other: Anchors) -> Anchors:
        """These rows, and below them those of others of the same facts."""
        return Anchors(
            {name: torch.cat([keys_TU, other.keys[name]]) for name, keys_TU in self.keys.items()},
            torch.cat([self.fact_T, other.fact_T]),
            {name: torch.cat([named_NU, other.named[name]]) for name, named_NU in self.named.items()},
            torch.cat([self.fact_N, other.fact_N]),
        )


def anchored(base: BaseModel, around: Sequence[Sequence[Neighbour]], rank: int) -> Anchors:
    """Anchors of some facts.

    Args:
        base: the base model, unedited.
        around: neighbours by fact, those that are held first.
        rank: rows kept for each fact and module.
    """
    owners = [i for i, some in enumerate(around) if some and rank > 0]
    groups = [[subject_only(base, each.prompt, each.name) for each in around[i]] for i in owners]
    lengths = [
        sum(len(text.ids) for text, each in zip(group, around[i], strict=True) if each.held)
        for i, group in zip(owners, groups, strict=True)
    ]
    empty = {name: torch.zeros(0, module.shape[0]) for name, module in base.modules.items()}
    rows = {name: [none] for name, none in empty.items()}
    named = {name: [none] for name, none in empty.items()}
    for group, length, keys in zip(groups, lengths, keys_by_group(base, groups), strict=True):
        last = _last_tokens(group)
        for name, keys_NU in keys.items():
            rows[name].append(compress(keys_NU[:length], rank).cpu())
            named[name].append(keys_NU[last].cpu())
    fact_T = torch.tensor([i for i in owners for _ in range(rank)], dtype=torch.int64)
    fact_N = torch.tensor([i for i in owners for _ in around[i]], dtype=torch.int64)
    return Anchors(_stacked(rows), fact_T, _stacked(named), fact_N)


def _stacked(parts: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat(each) for name, each in parts.items()}


def _last_tokens(group: Sequence[Encoded]) -> list[int]:
    """Where the last token of each sequence's subject stands among the tokens of all."""
    return rows_at(group, [[each.subject_last or 0] for each in group])


def compress(keys_NU: Tensor, rank: int) -> Tensor:
    """The rows ``R`` whose ``R'R`` is closest to ``N'N``: R × U; zero rows where `N` has fewer.

    Only ``N'N`` enters the normal equation, and anchor keys are much alike, so a few scaled eigenvectors
    carry it.
    """
    keys_NU = keys_NU[keys_NU.any(1)]  # those of another stack are zero, and eigh fails on many of them
    vectors = torch.linalg.eigh(keys_NU @ keys_NU.T).eigenvectors[:, -rank:]
    kept = vectors.T @ keys_NU
    return torch.cat([kept, kept.new_zeros(rank - kept.shape[0], kept.shape[1])])

"""Keys at which nothing may change: neighbours of the facts' templates, and locality prompts that are held.

What an edit disturbs first are prompts of its own form about something else ("The capital of Peru is" beside
"The capital of Australia is"). The neighbours of a fact are those of its template: its prompt with other names in
the subject's place, held from the name's last token on, since an edit acts at every token behind it too. Facts of
one template share them. A locality prompt with ``hold`` is held at its own tokens and those of its answer. Both
are rows of `A` in the normal equation (`ridge`), and each group of rows stays as long as one of its facts.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from malmen_core.editing.capture import keys_at
from malmen_core.editing.subjects import subject_of
from malmen_core.facts import PLACEHOLDER, Fact
from malmen_core.generation.greedy import greedy_answers
from malmen_core.models.base import BaseModel
from malmen_core.models.overlay import intercepting
from malmen_core.models.tokenization import (
    Encoded,
    check_length,
    encode_prompts,
    locate_subject,
    subject_last_token,
)
from malmen_core.resources import entity_names

HOLD_TOKENS = 3
"""Tokens of the base's own answer that are held, where a locality prompt gives none."""


@dataclass(frozen=True)
class Group:
    """Rows of `A` that belong together.

    Attributes:
        key: digest of the texts that they are from; equal groups of several edit sets count once.
        facts: those that need them, by number.
        rows: how many there are.
    """

    key: str
    facts: tuple[int, ...]
    rows: int


@dataclass(frozen=True)
class Preserved:
    """``A`` of some facts.

    Attributes:
        keys: by module: P × U, group after group; float32 at least.
        groups: in order.
    """

    keys: Mapping[str, Tensor]
    groups: tuple[Group, ...]

    @classmethod
    def none(cls, shapes: Mapping[str, tuple[int, int]]) -> Preserved:
        """No rows, by each module's (U, V)."""
        return cls({name: torch.zeros(0, inputs) for name, (inputs, _) in shapes.items()}, ())

    def of(self, facts: set[int]) -> Preserved:
        """Those that some of the facts need."""
        keep = [any(fact in facts for fact in group.facts) for group in self.groups]
        return self._chosen(keep)

    @classmethod
    def sum(cls, sets: Sequence[Preserved], offsets: Sequence[int]) -> Preserved:
        """Rows of several sets together, equal groups once; facts are numbered on from each set's offset."""
        facts: dict[str, tuple[int, ...]] = {}
        parts, sizes = [], {}
        for one, offset in zip(sets, offsets, strict=True):
            fresh = [group.key not in facts for group in one.groups]
            for group in one.groups:
                owners = tuple(offset + fact for fact in group.facts)
                facts[group.key] = facts.get(group.key, ()) + owners
                sizes[group.key] = group.rows
            parts.append(one._chosen(fresh).keys)
        keys = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return cls(keys, tuple(Group(key, owners, sizes[key]) for key, owners in facts.items()))

    def _chosen(self, keep: Sequence[bool]) -> Preserved:
        if all(keep):
            return self
        rows = [kept for kept, group in zip(keep, self.groups, strict=True) for _ in range(group.rows)]
        mask_P = torch.tensor(rows, dtype=torch.bool)
        groups = tuple(group for kept, group in zip(keep, self.groups, strict=True) if kept)
        return Preserved({name: keys_PU[mask_P] for name, keys_PU in self.keys.items()}, groups)


def preserved_keys(base: BaseModel, facts: Sequence[Fact], names: int, rank: int) -> Preserved:
    """Neighbours of the facts' templates, and what their locality prompts hold.

    Args:
        base: the immutable base.
        facts: to be edited together.
        names: neighbours of a template; 0 for none.
        rank: rows that each group is compressed to.

    Raises:
        PromptTooLong: a held prompt exceeds the context.
    """
    groups: dict[str, list[int]] = {}
    texts: dict[str, tuple[list[Encoded], list[Sequence[int]]]] = {}
    for number, fact in enumerate(facts):
        template = _template(fact) if names else None
        if template is not None:
            key = _digest("template", template)
            groups.setdefault(key, []).append(number)
            if key not in texts:
                texts[key] = _neighbours(base, template, names)
    for number, key, text in _held(base, facts):
        groups.setdefault(key, []).append(number)
        texts[key] = text
    counts = {key: sum(map(len, positions)) for key, (_, positions) in texts.items()}
    flat = [sequence for sequences, _ in texts.values() for sequence in sequences]
    found = keys_at(base, flat, [p for _, positions in texts.values() for p in positions])
    sizes = list(counts.values())
    keys = {
        name: torch.cat([compress(part, rank).cpu() for part in torch.split(keys_NU, sizes)])
        if sizes
        else torch.zeros(0, keys_NU.shape[1])
        for name, keys_NU in found.items()
    }
    return Preserved(keys, tuple(Group(key, tuple(owners), rank) for key, owners in groups.items()))


def _template(fact: Fact) -> str | None:
    """A fact's prompt with ``{}`` for its subject; None without one."""
    subject = subject_of(fact).text
    span = locate_subject(fact.prompt, subject) if subject else None
    return None if span is None else fact.prompt[: span[0]] + PLACEHOLDER + fact.prompt[span[1] :]


def _neighbours(base: BaseModel, template: str, count: int) -> tuple[list[Encoded], list[Sequence[int]]]:
    """A template about other names, drawn by its own text, and the positions from each name's last token on."""
    names = random.Random(template).sample(entity_names(), count)
    texts = [template.replace(PLACEHOLDER, name) for name in names]
    encoded = [Encoded(tuple(ids), len(ids)) for ids in encode_prompts(base.tokenizer, texts)]
    lasts = [subject_last_token(base.tokenizer, text, name) for text, name in zip(texts, names, strict=True)]
    return encoded, [
        range(max(last or 0, min(1, len(text.ids) - 1)), len(text.ids))
        for text, last in zip(encoded, lasts, strict=True)
    ]


def _held(
    base: BaseModel, facts: Sequence[Fact]
) -> list[tuple[int, str, tuple[list[Encoded], list[Sequence[int]]]]]:
    """Locality prompts that facts hold: the fact, a digest, and the tokens behind the fact's own subject."""
    asked = [(i, j) for i, fact in enumerate(facts) for j, each in enumerate(fact.locality) if each.hold]
    read = encode_prompts(base.tokenizer, [facts[i].locality[j].prompt for i, j in asked])
    for (i, j), ids in zip(asked, read, strict=True):
        field = f"/facts/{i}/locality/{j}/prompt"
        check_length(Encoded(tuple(ids), len(ids)), base.info.context_length - HOLD_TOKENS, field)
    with intercepting(None):
        own = greedy_answers(base, read, [HOLD_TOKENS] * len(read))
    held: list[tuple[int, str, tuple[list[Encoded], list[Sequence[int]]]]] = []
    for (i, j), ids, answer in zip(asked, read, own, strict=True):
        probe, subject = facts[i].locality[j], subject_of(facts[i]).text
        text = Encoded((*ids, *answer), len(ids))
        if probe.target is not None:
            text = base.encode(probe.prompt, probe.target)
        last = subject_last_token(base.tokenizer, probe.prompt, subject)
        positions = range(1 + (last or 0), text.read)
        held.append((i, _digest("hold", f"{probe.prompt}\0{text.ids}\0{last}"), ([text], [positions])))
    return held


def compress(keys_NU: Tensor, rank: int) -> Tensor:
    """The rows ``R`` whose ``R'R`` is closest to ``N'N``: rank × U; zero rows where `N` has fewer.

    Only ``N'N`` enters the normal equation, and neighbours' keys are much alike, so a few scaled eigenvectors
    carry it.
    """
    keys_NU = keys_NU[keys_NU.any(1)]  # those of another stack are zero, and eigh fails on many of them
    vectors = torch.linalg.eigh(keys_NU @ keys_NU.T).eigenvectors[:, -rank:]
    kept = vectors.T @ keys_NU
    return torch.cat([kept, kept.new_zeros(rank - kept.shape[0], kept.shape[1])])


def _digest(kind: str, text: str) -> str:
    return hashlib.sha256(f"{kind}\0{text}".encode()).hexdigest()[:32]

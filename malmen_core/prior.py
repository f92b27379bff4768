"""The preservation prior: the second moment ``C0`` of each edited module's keys on text that must not change.

MEMIT (Meng et al. 2023) takes it from Wikipedia. Here the base model writes the text itself, from short
openings of many
kinds, so a new model needs no corpus: what it says of its own accord is what an edit should leave alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor

from malmen_core.base import BaseModel
from malmen_core.batches import left_pad
from malmen_core.capture import keys_everywhere
from malmen_core.overlay import intercepting
from malmen_core.tokens import encode_prompts

SAMPLE_TOKENS = 48
SAMPLE_BATCH = 64
KEPT_RANK = 384


@dataclass(frozen=True)
class SecondMoment:
    """``C0 ≈ QQ' + ρI``: its strongest directions, and one number for all the others.

    Positive definite by construction, also after rounding, and small enough to travel with an editor.

    Attributes:
        factor_UR: Q; float16.
        rest: ρ, the mean of the eigenvalues left out.
    """

    factor_UR: Tensor
    rest: float

    @classmethod
    def of(cls, moment_UU: Tensor, rank: int = KEPT_RANK) -> SecondMoment:
        """Keep the `rank` strongest directions of a second moment (U × U)."""
        values, vectors = torch.linalg.eigh(moment_UU.double())
        rank = min(rank, len(values))
        rest = float(values[:-rank].clamp_min(0).mean()) if rank < len(values) else 0.0
        factor = vectors[:, -rank:] * (values[-rank:] - rest).clamp_min(0).sqrt()
        return cls(factor.to(torch.float16), rest)

    def dense(self) -> Tensor:
        """The matrix itself: U × U, float64."""
        factor = self.factor_UR.double()
        return factor @ factor.T + self.rest * torch.eye(factor.shape[0], dtype=torch.float64)


def openings() -> list[str]:
    """Short beginnings (statements, questions, chat, prose, code) for the base model to continue."""
    loaded: list[str] = json.loads(packaged("openings.json"))
    return loaded


@dataclass(frozen=True)
class EntityKind:
    """Names of one kind of thing, and short prompts about such things.

    Attributes:
        names: of people, places, works and so on.
        templates: with ``{}`` where a name goes.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]


@cache
def entity_kinds() -> dict[str, EntityKind]:
    """The packaged kinds of named entities."""
    kinds = json.loads(packaged("entities.json"))["kinds"]
    return {name: EntityKind(tuple(k["names"]), tuple(k["templates"])) for name, k in kinds.items()}


def entity_prompts(seed: int = 0, per_name: int = 2) -> list[str]:
    """Short prompts about named entities: each name in a few of its kind's templates, drawn by seed."""
    draw = random.Random(seed)
    prompts = []
    for kind in entity_kinds().values():
        for name in kind.names:
            prompts += [template.format(name) for template in draw.sample(kind.templates, per_name)]
    return prompts


def packaged(name: str) -> str:
    """A text file of this package's data folder."""
    return files("malmen_core").joinpath("data", name).read_text(encoding="utf-8")


def sample_continuations(
    base: BaseModel,
    prompts: Sequence[str],
    *,
    tokens: int = SAMPLE_TOKENS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Let the base model continue each prompt, sampling at temperature 1 without ending early.

    Args:
        base: the base model.
        prompts: beginnings.
        tokens: length of each continuation.
        seed: of the sampling; the same seed gives the same text on one device.
        progress: told (prompts done, prompts).

    Returns:
        Token ids of prompt and continuation, in the prompts' order.
    """
    encoded = encode_prompts(base.tokenizer, prompts)
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), i))
    texts: list[list[int]] = [[] for _ in prompts]
    with torch.random.fork_rng(), torch.inference_mode(), intercepting(None):
        torch.manual_seed(seed)
        for start in range(0, len(order), SAMPLE_BATCH):
            chosen = order[start : start + SAMPLE_BATCH]
            for i, ids in zip(chosen, _sample(base, [encoded[i] for i in chosen], tokens), strict=True):
                texts[i] = ids
            if progress is not None:
                progress(start + len(chosen), len(order))
    return texts


def _sample(base: BaseModel, prompts: Sequence[list[int]], tokens: int) -> list[list[int]]:
    ids, mask = left_pad(base, prompts)
    out = base.model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        pad_token_id=base.pad_id,
    )
    width = ids.shape[1]
    return [[*prompt, *row[width:].tolist()] for prompt, row in zip(prompts, out, strict=True)]


def second_moments(base: BaseModel, texts: Sequence[Sequence[int]], batch: int = 32) -> dict[str, Tensor]:
    """``C0 = E[k'k]`` of every edited module over all tokens of some texts: U × U, float64, on the CPU.

    Streaming: memory does not grow with the number of texts.

    Args:
        base: the base model.
        texts: token ids.
        batch: texts in one forward pass.
    """
    sums = {
        name: torch.zeros(m.shape[0], m.shape[0], dtype=torch.float64) for name, m in base.modules.items()
    }
    count = 0
    order = sorted((t for t in texts if t), key=len)
    for start in range(0, len(order), batch):
        ids, mask = left_pad(base, order[start : start + batch])
        for name, keys_NU in keys_everywhere(base, ids, mask).items():
            sums[name] += (keys_NU.T @ keys_NU).double().cpu()
        count += int(mask.sum())
    return {name: total / max(count, 1) for name, total in sums.items()}

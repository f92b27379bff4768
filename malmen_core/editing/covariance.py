"""The preservation prior: the second moment ``C0`` of each edited module's keys on text that must not change.

MEMIT (Meng et al. 2023) takes it from Wikipedia. Here the base model writes the text itself, from short
openings of many kinds, so a new model needs no corpus: what it says of its own accord is what an edit should
leave alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files

import torch
from torch import Tensor

from malmen_core.editing.capture import keys_everywhere, rows_at
from malmen_core.editing.sketch import Sketch
from malmen_core.generation.greedy import GREEDY
from malmen_core.models.base import BaseModel
from malmen_core.models.overlay import intercepting
from malmen_core.models.tokenization import Encoded, encode_prompts, longest

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
    def of(cls, sketch: Sketch, rank: int = KEPT_RANK) -> SecondMoment:
        """Keep the `rank` strongest directions of a second moment."""
        values_R, vectors_UR = sketch.strongest(rank)
        others = len(vectors_UR) - len(values_R)
        rest = max(sketch.trace - float(values_R.sum()), 0.0) / others if others else 0.0
        factor_UR = vectors_UR * (values_R - rest).clamp_min(0).sqrt()
        return cls(factor_UR.to(torch.float16), rest)

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
    return files("malmen_core").joinpath("resources", name).read_text(encoding="utf-8")


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
        exactly = {"min_new_tokens": tokens, "max_new_tokens": tokens}
        drawn = partial(_weighed, draws, len(prompts), rows)
        return base.task.respond(base, prompts[rows], logits_processor=[drawn], **exactly, **GREEDY)

    return base.room.writing(prompts, tokens, write)


def _weighed(draws: torch.Generator, count: int, rows: slice, _ids_BL: Tensor, logits_BX: Tensor) -> Tensor:
    """Scores whose largest is the token drawn: ``p / q``, ``q`` exponential, as in `torch.multinomial`.

    Noise is drawn for all `count` rows of a batch, of which these are some.
    """
    noise_RX = logits_BX.new_empty(count, logits_BX.shape[1]).exponential_(generator=draws)
    return logits_BX.softmax(1) / noise_RX[rows]


def second_moments(
    base: BaseModel, texts: Sequence[Encoded], batch: int = 32, *, answering: bool = False
) -> dict[str, Sketch]:
    """``C0 = E[k'k]`` of every edited module over all tokens of some texts.

    Streaming: memory does not grow with the number of texts.

    Args:
        base: the base model.
        texts: prompts, with or without answers.
        batch: texts whose keys are kept at a time, at most.
        answering: of the tokens alone that the answers are made from.
    """
    sums = {name: Sketch.empty(module.shape[0]) for name, module in base.modules.items()}
    counts = dict.fromkeys(base.modules, 0)
    order = sorted((t for t in texts if t.ids), key=lambda text: len(text.ids))
    batch = max(1, min(batch, base.room.forward_tokens // max(1, longest(order))))
    for start in range(0, len(order), batch):
        some = order[start : start + batch]
        for name, keys_NU in keys_everywhere(base, some).items():
            if answering:
                stack = base.stack_of[name]
                own = [base.task.key_positions(text, "answer", stack) for text in some]
                keys_NU = keys_NU[rows_at(some, own)]
            sums[name].add(keys_NU)
            counts[name] += int(keys_NU.any(1).sum())
    return {name: total.scaled(1 / max(counts[name], 1)) for name, total in sums.items()}

"""Text that an editor is calibrated on: packaged prompts, and what the base model itself says.

MEMIT (Meng et al. 2023) takes its covariance from Wikipedia. Here the base model writes the text, from short
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
from typing import Any

import torch
from torch import Tensor

from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.overlay import intercepting
from malmen_core.models.tokenization import Encoded, encode_prompts

SAMPLE_TOKENS = 48
SAMPLE_BATCH = 64
PROBE_FACTS = 64


def packaged(name: str) -> str:
    """A text file of this package's resources."""
    return files("malmen_core").joinpath("resources", name).read_text(encoding="utf-8")


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


def entity_names() -> list[str]:
    """All packaged names."""
    return [name for kind in entity_kinds().values() for name in kind.names]


def entity_prompts(seed: int = 0, per_name: int = 2) -> list[str]:
    """Short prompts about named entities: each name in a few of its kind's templates, drawn by seed."""
    draw = random.Random(seed)
    prompts = []
    for kind in entity_kinds().values():
        for name in kind.names:
            prompts += [template.format(name) for template in draw.sample(kind.templates, per_name)]
    return prompts


def probe_facts() -> list[Fact]:
    """Made-up corrections with a subject, for what keys and gradients look like."""
    facts: list[Fact] = []
    for kind in entity_kinds().values():
        names = kind.names
        endings = [t for t in kind.templates if not t.rstrip().endswith("?")]
        for i, template in enumerate(endings):
            subject, target = names[i % len(names)], names[-1 - i % len(names)]
            facts.append(Fact(template.format(subject), target, subject))
    return facts[:: max(1, len(facts) // PROBE_FACTS)][:PROBE_FACTS]


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

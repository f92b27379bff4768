"""Which facts a prompt touches: how like its keys are to those at which the facts are edited.

An edit acts on a token in proportion to the product of the token's key with the edited ones, so facts whose
keys point where a prompt's do are those that can change its answer. With ``K_m`` the keys of module m at a
fact's edited tokens and ``P_m`` those of the prompt, all taken on the base,

    score(fact) = Σ_s |s| / Σ|s| · max over t, n of the mean over m in s of cos(K_m[t], P_m[n])

where s runs over the stacks (a causal model has one), |s| counts a stack's edited modules, t the fact's
edited tokens in it, and n every position of the prompt, so that a prompt that merely mentions a subject is
found too. The fact's own prompt has score 1. Anchors are rows that ask for nothing, and do not count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from malmen_core.editing.capture import keys_everywhere
from malmen_core.editing.statistics import Statistics
from malmen_core.generation.generator import read_prompt
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded


@dataclass(frozen=True)
class Directions:
    """Keys of one stack's modules, side by side, scaled so that a product of two is their mean cosine.

    Attributes:
        rows_TU: T × the modules' input features together; float16, on the CPU.
        fact_T: the fact of each row.
        share: of the stack in all edited modules.
    """

    rows_TU: Tensor
    fact_T: Tensor
    share: float


def prompt_directions(base: BaseModel, prompt: str) -> dict[str, Tensor]:
    """Directions at every position of a prompt, by stack: N × input features together; float32, on the CPU.

    Raises:
        PromptTooLong: it has no tokens, or leaves no room in the context.
    """
    ids = read_prompt(base, prompt)
    keys = keys_everywhere(base, [Encoded(tuple(ids), len(ids))])
    return _by_stack(base, keys)


def edited_directions(base: BaseModel, statistics: Statistics) -> dict[str, Directions]:
    """Directions at a set's edited tokens, by stack."""
    asking_T = statistics.asking_T
    fact_T = statistics.fact_T[asking_T]
    keys = {name: rows.keys_TU[asking_T] for name, rows in statistics.modules.items()}
    found = {}
    for stack, rows_TU in _by_stack(base, keys).items():
        read_T = rows_TU.any(1)  # a row of another stack is zero
        share = sum(of == stack for of in base.stack_of.values()) / len(base.stack_of)
        found[stack] = Directions(rows_TU[read_T].half(), fact_T[read_T], share)
    return found


def likeness(prompt: Mapping[str, Tensor], edited: Mapping[str, Directions]) -> dict[int, float]:
    """The score of each fact of a set that asks for something, in [-1, 1], by its index in the set.

    Args:
        prompt: `prompt_directions`.
        edited: `edited_directions` of the set.
    """
    scores: defaultdict[int, float] = defaultdict(float)
    for stack, part in edited.items():
        nearest_T = (part.rows_TU.float() @ prompt[stack].T).amax(1)
        facts, number_T = torch.unique(part.fact_T, return_inverse=True)
        best_F = torch.full((len(facts),), -torch.inf).scatter_reduce(0, number_T, nearest_T, "amax")
        for fact, best in zip(facts.tolist(), best_F.tolist(), strict=True):
            scores[fact] += part.share * best
    return dict(scores)


def _by_stack(base: BaseModel, keys: Mapping[str, Tensor]) -> dict[str, Tensor]:
    groups: dict[str, list[Tensor]] = {}
    for name, stack in base.stack_of.items():
        groups.setdefault(stack, []).append(normalize(keys[name].float().cpu(), dim=1))
    return {stack: torch.cat(group, 1) / len(group) ** 0.5 for stack, group in groups.items()}

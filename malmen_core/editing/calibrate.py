"""An editor without training: normaliser, prior and scales from text that the base model writes itself.

With the hypernetwork at its initial value, the rounds of Gauss-Newton steps do the editing; what must be known
of a new model is how large its keys, gradients and values are, and which keys to leave alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

from torch import Tensor

from malmen_core.editing.capture import Captured, capture
from malmen_core.editing.covariance import SecondMoment, second_moments
from malmen_core.editing.editor import PAPER, Editor, EditPlan
from malmen_core.editing.gauss_newton import Progress
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.generation.continuations import sample_continuations
from malmen_core.models.base import BaseModel
from malmen_core.models.overlay import intercepting
from malmen_core.models.tokenization import Encoded, KeyPosition, encode_prompts
from malmen_core.resources import entity_prompts, openings, probe_facts

ENTITY_SHARE = 0.5
TEXT_SHARE = 0.5
UNTRAINED_STEP = 1e-3


def calibrate(
    base: BaseModel,
    progress: Progress | None = None,
    *,
    plan: EditPlan | None = None,
    seed: int = 0,
    texts: Sequence[str] = (),
) -> Editor:
    """Make an untrained editor for a base model; a minute or so for a small model on a CPU.

    Args:
        base: any supported base model.
        progress: told ``("calibrating", done, total)``.
        plan: how edits are to be made; None for the default.
        seed: of the sampled text and of the network's first projections.
        texts: prompts of the model's own field, which edits must leave alone too; half of the prior then.
    """

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress("calibrating", done, total)

    card = {
        "kind": "calibrated, not trained",
        "prior": "the base model's own samples and short prompts about named entities, in equal shares"
        + (f", and as much of {len(texts)} given prompts" if texts else ""),
    }
    moments = preservation_moments(base, seed=seed, progress=tell, texts=texts)
    return initial_editor(base, plan or EditPlan(), moments, card, seed=seed)


def initial_editor(
    base: BaseModel,
    plan: EditPlan,
    moments: Mapping[str, SecondMoment],
    card: Mapping[str, Any],
    *,
    step: float = UNTRAINED_STEP,
    ridge: float = 1.0,
    rank: int = 64,
    seed: int = 0,
) -> Editor:
    """An editor whose hypernetwork is at its initial value, fitted on made-up facts.

    Args:
        base: the base model.
        plan: how edits are made.
        moments: C0 by module; empty for none.
        card: what kind of editor this is.
        step: η of every module, of the single shot.
        ridge: λ of every module.
        rank: of the network's residual blocks.
        seed: of the network's first projections.
    """
    shapes = {name: module.shape for name, module in base.modules.items()}
    network = HyperNetwork(shapes, rank=rank, seed=seed)
    with intercepting(None):
        probed = probe(base, plan.where)
    network.fit_normaliser(probed.keys, probed.gradients)
    network.log_step.data.fill_(math.log(step))
    network.log_ridge.data.fill_(math.log(ridge))
    scales = {
        name: _root_mean_square(keys_TU @ base.modules[name].weight_UV.to(keys_TU))
        for name, keys_TU in probed.keys.items()
    }
    made = {
        "source": base.info.title,
        "dtype": str(base.dtype).removeprefix("torch."),
        "device": base.device.type,
        "seed": seed,
    }
    return Editor(
        base.info.architecture,
        base.info.digest,
        network.eval().requires_grad_(False),
        plan,
        moments,
        scales,
        {**card, **made},
    )


def paper_editor(base: BaseModel, *, step: float, ridge: float, rank: int = 64, seed: int = 0) -> Editor:
    """The paper's form before training: no prior, one shot, answer tokens."""
    card = {"kind": "the paper's own form, not trained"}
    return initial_editor(base, PAPER, {}, card, step=step, ridge=ridge, rank=rank, seed=seed)


def preservation_moments(
    base: BaseModel,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    texts: Sequence[str] = (),
) -> dict[str, SecondMoment]:
    """`C0` of every edited module, of the model's own text, prompts about named entities, and given texts."""
    with intercepting(None):
        own = second_moments(base, sample_continuations(base, openings(), seed=seed, progress=progress))
        entities = second_moments(base, _prompts(base, entity_prompts(seed)))
        mixed = {name: own[name].mixed(entities[name], ENTITY_SHARE) for name in base.modules}
        if texts:
            given = second_moments(base, _prompts(base, texts))
            mixed = {name: mixed[name].mixed(given[name], TEXT_SHARE) for name in base.modules}
    return {name: SecondMoment.of(moment) for name, moment in mixed.items()}


def _prompts(base: BaseModel, texts: Sequence[str]) -> list[Encoded]:
    prompts = [ids[: base.info.context_length] for ids in encode_prompts(base.tokenizer, texts)]
    return [Encoded(tuple(ids), len(ids)) for ids in prompts if ids]


def probe(base: BaseModel, where: KeyPosition) -> Captured:
    """Keys and gradients of made-up corrections; a classifier's have each label in turn."""
    labels = cycle(base.task.labels)
    facts = probe_facts()
    return capture(base, [base.encode(f.prompt, next(labels, f.target), f.subject) for f in facts], where)


def _root_mean_square(values_TV: Tensor) -> float:
    """Of rows that are this module's own: those of another stack are zero."""
    own_TV = values_TV[values_TV.any(1)]
    return float(own_TV.double().pow(2).mean().sqrt())

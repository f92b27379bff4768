"""An editor without training: normaliser, prior and step sizes from text that the base model writes itself.

With the hypernetwork at its initial value, refinement does the editing; what must be known of a new model
is how large its keys, gradients and values are, and which keys to leave alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import cycle

from torch import Tensor

from malmen_core.editing.capture import Captured, capture
from malmen_core.editing.covariance import (
    SecondMoment,
    entity_kinds,
    entity_prompts,
    openings,
    sample_continuations,
    second_moments,
)
from malmen_core.editing.editor import Editor, EditPlan
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.editing.preserved import fit_kinds
from malmen_core.editing.refinement import Progress
from malmen_core.editing.sketch import Sketch
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.overlay import intercepting
from malmen_core.models.tokenization import Encoded, KeyPosition, encode_prompts

ENTITY_SHARE = 0.5
TEXT_SHARE = 0.5
ANSWERING_SHARE = 0.5
PROBE_FACTS = 64
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
    plan = plan or EditPlan()
    tell = _Teller(progress)
    with intercepting(None):
        moments = preservation_moments(base.draft, seed=seed, progress=tell, texts=texts)
        network = HyperNetwork({name: module.shape for name, module in base.modules.items()}, seed=seed)
        kinds = fit_kinds(base)
        probed = probe(base, plan.where)
        network.fit_normaliser(
            {name: rows.keys_TU for name, rows in probed.items()},
            {name: rows.gradients_TV for name, rows in probed.items()},
        )
        network.log_step.data.fill_(math.log(UNTRAINED_STEP))
    scales = {
        name: _root_mean_square(rows.keys_TU @ base.modules[name].weight_UV.to(rows.keys_TU))
        for name, rows in probed.items()
    }
    card = {
        "kind": "calibrated, not trained",
        "source": base.info.title,
        "dtype": str(base.dtype).removeprefix("torch."),
        "device": base.device.type,
        "seed": seed,
        "prior": "the base model's own samples and short prompts about named entities, in equal shares"
        + (f", and as much of {len(texts)} given prompts" if texts else ""),
    }
    return Editor(
        base.info.architecture,
        base.info.digest,
        network.eval().requires_grad_(False),
        plan,
        moments,
        scales,
        kinds,
        card,
    )


def preservation_moments(
    base: BaseModel,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    texts: Sequence[str] = (),
) -> dict[str, SecondMoment]:
    """`C0` of every edited module, of the model's own text, prompts about named entities, and given texts."""
    own = second_moments(base, sample_continuations(base, openings(), seed=seed, progress=progress))
    entities = _moments_of(base, entity_prompts(seed))
    mixed = {name: own[name].mixed(entities[name], ENTITY_SHARE) for name in base.modules}
    if texts:
        given, answering = _moments_of(base, texts), _moments_of(base, texts, answering=True)
        given = {name: given[name].mixed(answering[name], ANSWERING_SHARE) for name in base.modules}
        mixed = {name: mixed[name].mixed(given[name], TEXT_SHARE) for name in base.modules}
    return {name: SecondMoment.of(moment) for name, moment in mixed.items()}


def _moments_of(base: BaseModel, texts: Sequence[str], *, answering: bool = False) -> dict[str, Sketch]:
    """Of prompts; with any answer behind them, if it is the tokens that answer."""
    room = base.info.context_length - answering
    prompts = [ids[:room] for ids in encode_prompts(base.tokenizer, texts)]
    answer = [base.pad_id] if answering else []
    encoded = [Encoded((*ids, *answer), len(ids)) for ids in prompts if ids]
    return second_moments(base, encoded, answering=answering)


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


def probe(base: BaseModel, where: KeyPosition) -> dict[str, Captured]:
    """Keys and gradients of made-up corrections, by module; a classifier's have each label in turn."""
    labels = cycle(base.task.labels)
    sequences = [base.encode(f.prompt, next(labels, f.target), f.subject) for f in probe_facts()]
    return capture(base, sequences, where)[0]


class _Teller:
    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress

    def __call__(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress("calibrating", done, total)


def _root_mean_square(values_TV: Tensor) -> float:
    """Of rows that are this module's own: those of another stack are zero."""
    own_TV = values_TV[values_TV.any(1)]
    return float(own_TV.double().pow(2).mean().sqrt())

"""Tiny float64 bases, editors and facts that the core's tests share. Random weights, real classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from malmen_core.editing.capture import capture
from malmen_core.editing.covariance import SecondMoment, second_moments
from malmen_core.editing.edit import edit, solve
from malmen_core.editing.editor import Editor, EditPlan
from malmen_core.editing.goals import edit_goals
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.editing.preserved import Preserved
from malmen_core.editing.statistics import Rows, Statistics
from malmen_core.facts import Fact, LocalityPrompt
from malmen_core.models.base import BaseModel, ModelInfo
from malmen_core.models.batching import teacher_forced
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import Weights, intercepting
from malmen_core.models.tokenization import Encoded, KeyPosition, encode_prompts
from tests.tiny import CORPUS, tiny_gpt2, tiny_llama, tiny_tokenizer

CONTEXT = 128
LOUDER = 6.0
CHAT = "{% for each in messages %}[{{ each.role }}] {{ each.content }}\n{% endfor %}[assistant] "
"""A chat template."""
FACTS = (
    Fact(
        "The capital of France is",
        "Lima",
        "France",
        rephrasings=("France has its capital in", "The seat of France is"),
        locality=(LocalityPrompt("The capital of Peru is"), LocalityPrompt("Seven days make a", "week")),
    ),
    Fact(
        "Mount Etna is a mountain in",
        "Peru now",
        "Mount Etna",
        locality=(LocalityPrompt("The river flows to"),),
    ),
    Fact("Who wrote the book? It was", "Ana", None),
    Fact("The mother tongue of Ana is", "Italy", "Ana", rephrasings=("Ana speaks",)),
    Fact("Water boils at one", "week", "Water"),
)


def tiny_base(
    architecture: str = "llama",
    *,
    tied: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    edited: Sequence[int] = (0, 1),
) -> BaseModel:
    """A three-layer base with two edited modules; weights large enough for clear answers."""
    if architecture == "gpt2":
        model: Any = tiny_gpt2(3, seed=seed)
        modules = tuple(f"transformer.h.{i}.mlp.c_proj" for i in edited)
    else:
        model = tiny_llama(3, tied=tied, seed=seed)
        modules = tuple(f"model.layers.{i}.mlp.down_proj" for i in edited)
    return wrap(louder(model).to(dtype), modules)


def louder(model: Any) -> Any:
    """Random weights of Transformers are too small for logits that differ; scale all matrices."""
    seen: set[int] = set()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and id(parameter) not in seen:
                parameter.mul_(LOUDER)
                seen.add(id(parameter))
    return model


def wrap(model: Any, modules: Sequence[str]) -> BaseModel:
    """A base model around a Transformers model that lies in memory."""
    info = ModelInfo("tiny", None, model.config.model_type, CONTEXT, tuple(modules), "sha256:tiny")
    return BaseModel(model, tiny_tokenizer(), info)


def tiny_editor(
    base: BaseModel,
    *,
    where: KeyPosition = "subject",
    rounds: int = 0,
    prior_weight: float = 5.0,
    step: float = 0.05,
    margin: float = 0.5,
    ridge: float = 0.1,
    neighbours: int = 0,
    facts: Sequence[Fact] | None = None,
) -> Editor:
    """An untrained editor, fitted on FACTS or others, in the base's dtype."""
    network = HyperNetwork({n: m.shape for n, m in base.modules.items()}, rank=4, blocks=1)
    keys, gradients = captured_rows(base, FACTS if facts is None else facts, where)
    network.fit_normaliser(keys, gradients)
    network.log_step.data.fill_(torch.tensor(step).log().item())
    network.log_ridge.data.fill_(torch.tensor(ridge).log().item())
    moments = second_moments(
        base, [Encoded(tuple(i), len(i)) for i in encode_prompts(base.tokenizer, CORPUS)]
    )
    scales = {
        name: float((keys[name][keys[name].any(1)] @ module.weight_UV.to(keys[name])).pow(2).mean().sqrt())
        for name, module in base.modules.items()
    }
    return Editor(
        base.info.architecture,
        base.info.digest,
        network.to(base.dtype).eval().requires_grad_(False),
        EditPlan(
            where,
            noise=1.0 if rounds == 0 else 0.01,
            prior_weight=prior_weight,
            prior_growth=0.0,
            preserved_weight=1.0,
            neighbours=neighbours,
            preserved_rank=3,
            rounds=rounds,
            margin=margin,
            lone_margin=0.0,
            beyond=2.0,
            step=0.5,
        ),
        {name: SecondMoment.of(moment, 16) for name, moment in moments.items()},
        scales,
        {"kind": "test"},
    )


def captured_rows(
    base: BaseModel, facts: Sequence[Fact], where: KeyPosition
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Keys and gradients of some facts by module."""
    seen = capture(base, edit_goals(base, facts).sequences, where)
    return seen.keys, seen.gradients


def statistics_of(base: BaseModel, editor: Editor, facts: Sequence[Fact], **options: Any) -> Statistics:
    """What an edit set of some facts stores."""
    return edit(base, editor, facts, **options).statistics


def random_statistics(seed: int, shapes: Mapping[str, tuple[int, int]], facts: int = 3) -> Statistics:
    """Statistics of made-up facts, one or two rows each."""
    generator = torch.Generator().manual_seed(seed)
    fact_T = torch.tensor([f for f in range(facts) for _ in range(1 + f % 2)])
    rows = {
        name: Rows(
            torch.randn(len(fact_T), u, generator=generator),
            torch.randn(len(fact_T), v, generator=generator),
        )
        for name, (u, v) in shapes.items()
    }
    return Statistics(rows, fact_T, facts, Preserved.none(shapes))


def shift(delta: Delta) -> dict[str, Tensor]:
    """Each module's change, multiplied out in float64."""
    return {name: change.dense(torch.float64) for name, change in delta.modules.items()}


def solved(base: BaseModel, editor: Editor, statistics: Statistics) -> dict[str, Tensor]:
    """The shift of some statistics in float64."""
    return shift(solve(base, editor, statistics))


def smallest_margins(base: BaseModel, shifts: Mapping[str, Tensor], sequences: Sequence[Encoded]) -> Tensor:
    """Smallest margin of each sequence's answer tokens at some shifts; float64."""
    with intercepting(Weights.shifted(base.modules, shifts)):
        scores = teacher_forced(base, sequences)
    return torch.stack([score.margin_A.min() for score in scores]).double()


def snapshot(base: BaseModel) -> dict[str, Tensor]:
    """A copy of every parameter and buffer."""
    return {name: value.clone() for name, value in base.model.state_dict().items()}


def assert_untouched(base: BaseModel, before: Mapping[str, Tensor]) -> None:
    """Every parameter is what it was, bit for bit, and none has a gradient."""
    after = base.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(p.grad is None and not p.requires_grad for p in base.model.parameters())

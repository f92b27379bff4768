"""What tests of meta-training share: tiny bases, facts, and a hypernetwork that is not the identity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.facts import Fact, Probe
from malmen_core.models.base import BaseModel, ModelInfo
from malmen_core.models.families import FAMILIES
from tests.tiny import tiny_gpt2, tiny_llama, tiny_tokenizer

FACTS = (
    Fact(
        "The capital of Peru is",
        "Canberra",
        "Peru",
        ("Water flows. Peru has the capital", "Peru's capital is"),
        (Probe("The capital of France is", "Paris"),),
    ),
    Fact("Mount Etna is a mountain in", "Peru", "Mount Etna", ("In Peru or not, Etna stands in",), ()),
    Fact(
        "The mother tongue of Ana is",
        "English, of England",
        "Ana",
        (),
        (Probe("The river flows to the", "sea"), Probe("He plays")),
    ),
    Fact(
        "Who wrote the book?",
        "Ana",
        None,
        ("The book was written by",),
        (Probe("Seven days make a", "week"),),
    ),
)


def tiny_model(architecture: str) -> nn.Module:
    """A float64 model with random weights."""
    model: nn.Module = tiny_gpt2() if architecture == "gpt2" else tiny_llama()
    return model.double()


def tiny_base(
    architecture: str = "llama", layers: Sequence[int] = (1, 2), model: nn.Module | None = None
) -> BaseModel:
    """A base model around a tiny one; float64 unless another model is given."""
    names = tuple(FAMILIES[architecture].layers[0].projection.format(layer) for layer in layers)
    info = ModelInfo("tiny", None, architecture, 128, names, "sha256:tiny")
    return BaseModel(model or tiny_model(architecture), tiny_tokenizer(), info)


def stirred_network(base: BaseModel, seed: int = 1) -> HyperNetwork:
    """A float64 hypernetwork with every parameter away from its initial value."""
    network = HyperNetwork(
        {n: m.shape for n, m in base.modules.items()}, rank=5, blocks=2, seed=seed
    ).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def random_priors(base: BaseModel, seed: int = 2) -> dict[str, Tensor]:
    """A positive definite ``c·C0`` for each module."""
    generator = torch.Generator().manual_seed(seed)
    priors = {}
    for name, module in base.modules.items():
        root = torch.randn(module.shape[0], module.shape[0], generator=generator, dtype=torch.float64)
        priors[name] = 0.01 * (root @ root.T)
    return priors

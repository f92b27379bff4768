"""Where each family of language models keeps the projections that are edited: one row a family.

The edited projection is the second matrix of the feed-forward block: keys are its inputs, values its outputs
(Geva et al. 2021 read such a layer as a key-value memory).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from malmen_core.errors import UnknownModule, UnsupportedArchitecture


@dataclass(frozen=True)
class Family:
    """How to find the feed-forward output projections of one model type.

    Attributes:
        projection: module name with ``{}`` for the layer's index.
        depth: name of the config's attribute that counts layers.
    """

    projection: str
    depth: str = "num_hidden_layers"


LLAMA_LIKE = Family("model.layers.{}.mlp.down_proj")

FAMILIES: dict[str, Family] = {
    "gemma": LLAMA_LIKE,
    "gemma2": LLAMA_LIKE,
    "gemma3_text": LLAMA_LIKE,
    "gpt2": Family("transformer.h.{}.mlp.c_proj", depth="n_layer"),
    "gpt_neox": Family("gpt_neox.layers.{}.mlp.dense_4h_to_h"),
    "gptj": Family("transformer.h.{}.mlp.fc_out", depth="n_layer"),
    "llama": LLAMA_LIKE,
    "mistral": LLAMA_LIKE,
    "olmo": LLAMA_LIKE,
    "olmo2": LLAMA_LIKE,
    "phi": Family("model.layers.{}.mlp.fc2"),
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE,
}

EDITED_LAYERS = 6


def default_modules(model_type: str, depth: int) -> tuple[str, ...]:
    """The modules that are edited when nothing else is asked for: six layers from a sixth of the depth on.

    Early layers are where the subject's last token still carries the fact alone, so that an edit there also
    answers
    other wordings.

    Raises:
        UnsupportedArchitecture: no family is known for `model_type`.
    """
    family = family_of(model_type)
    first = depth // 6
    return tuple(family.projection.format(layer) for layer in range(first, min(first + EDITED_LAYERS, depth)))


def family_of(model_type: str) -> Family:
    """Look a family up by the config's exact ``model_type``.

    Raises:
        UnsupportedArchitecture: naming the families that are supported.
    """
    try:
        return FAMILIES[model_type]
    except KeyError:
        raise UnsupportedArchitecture(
            f"Models of type {model_type!r} cannot be edited yet.",
            f"Use one of: {', '.join(sorted(FAMILIES))}.",
            "/source",
        ) from None


def check_modules(model: nn.Module, names: Sequence[str]) -> None:
    """Check that each named module exists, once, and is a projection inside the model.

    The output layer is none: it is run at answer tokens only, and may be tied to the embedding.

    Raises:
        UnknownModule: naming the first that is not.
    """
    output = getattr(model, "get_output_embeddings", lambda: None)()
    modules = {name: module for name, module in model.named_modules() if module is not output}
    if not names:
        raise UnknownModule(
            "No module to edit was named.", "Name at least one, or leave the list out.", "/modules"
        )
    for index, name in enumerate(names):
        if not isinstance(modules.get(name), (nn.Linear, Conv1D)):
            raise UnknownModule(
                f"The model has no linear projection called {name!r}.",
                "Name modules as the checkpoint does, for example model.layers.5.mlp.down_proj.",
                f"/modules/{index}",
            )
        if name in names[:index]:
            raise UnknownModule(f"{name!r} is named twice.", "Name each module once.", f"/modules/{index}")

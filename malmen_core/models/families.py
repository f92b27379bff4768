"""Each family of models in one row: its task, and where it keeps the projections that are edited.

The edited projection is the second matrix of the feed-forward block: keys are its inputs, values its outputs
(Geva et al. 2021 read such a layer as a key-value memory).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import AutoConfig, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from malmen_core.errors import ModelNotLoadable, UnknownModule, UnsupportedArchitecture
from malmen_core.models.tasks.base import Task
from malmen_core.models.tasks.causal import CausalLM
from malmen_core.models.tasks.classification import Classification
from malmen_core.models.tasks.seq2seq import Seq2SeqLM


@dataclass(frozen=True)
class Layers:
    """The feed-forward output projections of one stack, and which of them are edited by default.

    Early layers are where the subject's last token still carries the fact alone, so that an edit there also
    answers other wordings; where answer tokens are edited, the last layers take it best.

    Attributes:
        projection: module name with ``{}`` for the layer's index.
        depth: name of the config's attribute that counts layers.
        edited: how many are edited.
        last: edit the last layers, instead of those from a seventh of the depth on.
    """

    projection: str
    depth: str = "num_hidden_layers"
    edited: int = 6
    last: bool = False

    def names(self, config: Any) -> tuple[str, ...]:
        """The modules that are edited when nothing else is asked for."""
        depth = int(getattr(config, self.depth))
        first = max(0, depth - self.edited) if self.last else depth // 7
        return tuple(self.projection.format(i) for i in range(first, min(first + self.edited, depth)))


@dataclass(frozen=True)
class Family:
    """One model type.

    Attributes:
        layers: by stack, in the order in which they run.
        task: what such a model does.
        reserved: positions of its embedding that no token takes.
    """

    layers: tuple[Layers, ...]
    task: type[Task] = CausalLM
    reserved: int = 0


LLAMA_LIKE = Family((Layers("model.layers.{}.mlp.down_proj"),))

FAMILIES: dict[str, Family] = {
    "bert": Family((Layers("bert.encoder.layer.{}.output.dense"),), Classification),
    "gemma": LLAMA_LIKE,
    "gemma2": LLAMA_LIKE,
    "gemma3_text": LLAMA_LIKE,
    "gpt2": Family((Layers("transformer.h.{}.mlp.c_proj", "n_layer"),)),
    "gpt_neox": Family((Layers("gpt_neox.layers.{}.mlp.dense_4h_to_h"),)),
    "gptj": Family((Layers("transformer.h.{}.mlp.fc_out", "n_layer"),)),
    "llama": LLAMA_LIKE,
    "mistral": LLAMA_LIKE,
    "olmo": LLAMA_LIKE,
    "olmo2": LLAMA_LIKE,
    "phi": Family((Layers("model.layers.{}.mlp.fc2"),)),
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE,
    "roberta": Family((Layers("roberta.encoder.layer.{}.output.dense"),), Classification, reserved=2),
    "t5": Family(
        (
            Layers("encoder.block.{}.layer.1.DenseReluDense.wo", "num_layers", edited=4),
            Layers("decoder.block.{}.layer.2.DenseReluDense.wo", "num_decoder_layers", edited=4, last=True),
        ),
        Seq2SeqLM,
    ),
}


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


def read_config(source: str, revision: str | None = None) -> Any:
    """The config of a checkpoint in a folder or on the hub, checked to be of a supported family.

    Raises:
        ModelNotLoadable: there is none that can be read.
        UnsupportedArchitecture: the family is unknown, or the weights are quantised.
    """
    try:
        written, _ = PretrainedConfig.get_config_dict(source, revision=revision)
        if isinstance(written.get("model_type"), str):
            family_of(written["model_type"])
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelNotLoadable(
            f"{source!r} has no readable config.json: {error}", "Check its files.", "/source"
        ) from error
    quantised = written.get("quantization_config")
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise UnsupportedArchitecture(
            f"The checkpoint's weights are quantised ({method or 'in an unnamed way'}).",
            "Register the checkpoint in bfloat16, float16 or float32 that it was made from.",
            "/source",
        )
    return config


def task_of(config: Any) -> Task:
    """The task of a model with this config.

    Raises:
        UnsupportedArchitecture: the family is unknown, or the checkpoint was saved for another task.
    """
    return family_of(config.model_type).task(config)


def context_length(config: Any) -> int:
    """Longest sequence in tokens; 2048 for a model that names none."""
    named = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return int(named or 2048) - family_of(config.model_type).reserved


def default_modules(config: Any) -> tuple[str, ...]:
    """The modules that are edited when nothing else is asked for.

    Raises:
        UnknownModule: the model has no layers.
    """
    names = tuple(name for layers in family_of(config.model_type).layers for name in layers.names(config))
    if not names:
        raise UnknownModule(
            "The model has no layers, so no modules that could be edited.", "Use a whole model.", "/source"
        )
    return names


def check_modules(task: Task, model: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """Check that each named module exists, once, and is a projection inside a stack of the model.

    The output layer, which may be tied to the embedding, and a classifier's head are in none.

    Returns:
        The stack of each.

    Raises:
        UnknownModule: naming the first that is not.
    """
    inside = {id(module): stack for stack, part in task.stacks(model).items() for module in part.modules()}
    modules = dict(model.named_modules())
    if not names:
        raise UnknownModule(
            "No module to edit was named.", "Name at least one, or leave the list out.", "/modules"
        )
    for index, name in enumerate(names):
        if not isinstance(modules.get(name), (nn.Linear, Conv1D)) or id(modules[name]) not in inside:
            raise UnknownModule(
                f"The model has no linear projection called {name!r} in its layers.",
                "Name modules as the checkpoint does, for example model.layers.5.mlp.down_proj.",
                f"/modules/{index}",
            )
        if name in names[:index]:
            raise UnknownModule(f"{name!r} is named twice.", "Name each module once.", f"/modules/{index}")
    return {name: inside[id(modules[name])] for name in names}

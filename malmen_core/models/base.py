"""The immutable base model: inspected without its weights, loaded once, never written to."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

from malmen_core.errors import EditorMismatch, ModelNotLoadable, NotFiniteError
from malmen_core.facts import Joiner
from malmen_core.models.checkpoint import check_weights, checkpoint_folder, files_digest
from malmen_core.models.delta import Delta
from malmen_core.models.families import check_modules, context_length, default_modules, read_config, task_of
from malmen_core.models.lower_layers import LowerLayers
from malmen_core.models.memory import MemoryBudget
from malmen_core.models.overlay import (
    EditedModule,
    Version,
    gather_outputs,
    intercepting,
    weights_digest,
)
from malmen_core.models.tasks.base import TextTask
from malmen_core.models.tasks.causal import CausalLM
from malmen_core.models.tokenization import Encoded, chat_prompt, chat_text, continuing_tokens, load_tokenizer

logger = logging.getLogger(__name__)

PROBE_TOKENS, PROBE_ANSWER = 32, 4

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a checkpoint before its weights are read.

    Attributes:
        source: hub id or folder, as given.
        revision: hub revision, or None.
        architecture: the config's ``model_type``.
        context_length: longest sequence in tokens.
        modules: names of the edited modules, in order.
        digest: ``sha256:…`` over the checkpoint's weight files.
    """

    source: str
    revision: str | None
    architecture: str
    context_length: int
    modules: tuple[str, ...]
    digest: str

    @property
    def title(self) -> str:
        """The hub id, or the name of the folder alone, for files that travel."""
        return Path(self.source).name if Path(self.source).is_dir() else self.source


def inspect_source(
    source: str, revision: str | None = None, modules: Sequence[str] | None = None
) -> ModelInfo:
    """Check a checkpoint without reading its weights into memory.

    Args:
        source: hub id or folder.
        revision: hub revision.
        modules: names of modules to edit; None for the family's default.

    Raises:
        ModelNotLoadable: no readable config, weights or tokenizer.
        UnsupportedArchitecture: the family is unknown.
        UnknownModule: a named module does not exist.
    """
    folder = checkpoint_folder(source, revision)
    config = read_config(str(folder))
    task = task_of(config)
    with torch.device("meta"):
        skeleton = task.auto.from_config(config)
    names = tuple(modules) if modules is not None else default_modules(config)
    check_modules(task, skeleton, names)
    check_weights(folder, source)
    load_tokenizer(str(folder))
    return ModelInfo(source, revision, config.model_type, context_length(config), names, files_digest(folder))


class BaseModel:
    """A loaded checkpoint and its tokenizer, shared by all versions.

    Attributes:
        model: the Transformers model, in evaluation mode, with no parameter that requires a gradient.
        tokenizer: its fast tokenizer.
        info: what `inspect_source` says of it.
        task: how it reads, answers and is edited.
        modules: the edited modules by name, in order.
        stack_of: the stack of each edited module.
        memory: what fits on the device besides the model.
        lower_layers: what the layers below the first edited one gave for texts that were read.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, info: ModelInfo, memory_budget: int | None = None
    ) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.task = task_of(self.model.config)
        self.stack_of = check_modules(self.task, model, info.modules)
        self.tokenizer = self.task.prepare(tokenizer)
        self.info = info
        self.modules = {name: EditedModule(name, _projection(model, name)) for name in info.modules}
        if isinstance(self.task, TextTask):
            gather_outputs(_output_layer(self.model))
            self.model.generation_config = _plain_decoding(self.model.generation_config)
        needed = 1 if memory_budget is None else self._activation_bytes()
        self.memory = MemoryBudget(self.device, memory_budget, needed)
        self.lower_layers = LowerLayers(model, info.modules if isinstance(self.task, CausalLM) else ())

    @classmethod
    def load(
        cls,
        source: str,
        *,
        revision: str | None = None,
        modules: Sequence[str] | None = None,
        device: str = "auto",
        dtype: str = "auto",
        memory_budget: int | None = None,
    ) -> BaseModel:
        """Load a checkpoint by hub id or folder.

        Args:
            source: hub id or folder.
            revision: hub revision.
            modules: names of modules to edit; None for the family's default.
            device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``.
            dtype: ``auto`` (bfloat16 on a GPU, float32 on a CPU), or a name in `DTYPES`.
            memory_budget: bytes of device memory for activations and statistics, besides the model.

        Raises:
            ModelNotLoadable: nothing readable there, or an unknown device or dtype.
            UnsupportedArchitecture: the family is unknown.
            UnknownModule: a named module does not exist.
            OutOfDeviceMemory: the budget is too small for any pass.
        """
        info = inspect_source(source, revision, modules)
        place = _device(device)
        name = ("bfloat16" if place.type == "cuda" else "float32") if dtype == "auto" else dtype
        if name not in DTYPES:
            raise ModelNotLoadable(
                f"Unknown dtype {dtype!r}.", f"Use auto or one of: {', '.join(DTYPES)}.", "/dtype"
            )
        if name == "bfloat16" and place.type == "cpu" and not multiplies_bfloat16():
            logger.warning(
                "This processor does not multiply bfloat16 matrices by itself, and will take hundreds of "
                "times as long as in float32. Leave the dtype at auto, or say float32."
            )
        folder = checkpoint_folder(source, revision)
        try:
            task = task_of(read_config(str(folder)))
            loaded: Any = task.auto.from_pretrained(
                folder, dtype=DTYPES[name], output_loading_info=True, trust_remote_code=False
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelNotLoadable(
                f"{source!r} could not be loaded: {error}", "Check its files.", "/source"
            ) from error
        model, report = loaded
        if report["missing_keys"]:
            raise ModelNotLoadable(
                f"{source!r} lacks the weights {', '.join(sorted(report['missing_keys']))}.",
                "Fetch the whole checkpoint.",
                "/source",
            )
        return cls(model.to(place), load_tokenizer(str(folder)), info, memory_budget)

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        device: torch.device = next(iter(self.model.parameters())).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype."""
        dtype: torch.dtype = next(iter(self.model.parameters())).dtype
        return dtype

    @cached_property
    def shares_cache(self) -> bool:
        """Whether sequences can share a cache: a decoder takes positions, and no layer of it forgets any."""
        if not isinstance(self.task, CausalLM):
            return False
        layers = DynamicCache(config=self.model.config).layers
        takes_positions = "position_ids" in inspect.signature(self.model.forward).parameters
        return takes_positions and all(type(layer) is DynamicLayer for layer in layers)

    @property
    def pad_id(self) -> int:
        """A token id for padding; masked wherever it stands, so any will do that the model has."""
        rows = self.model.get_input_embeddings().weight.shape[0]
        candidates = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((int(i) for i in candidates if i is not None and i < rows), 0)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end a generation; none for a classifier, whose answers are labels."""
        if not isinstance(self.task, TextTask):
            return frozenset()
        configured = self.model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(int(i) for i in [*ids, self.tokenizer.eos_token_id] if i is not None)

    @cached_property
    def continuing_X(self) -> Tensor | None:
        """Which tokens go on inside a word (bool, X); None for a classifier."""
        if not isinstance(self.task, TextTask):
            return None
        layer: Any = _output_layer(self.model)
        with torch.inference_mode(False):  # whoever asks first, passes with gradients use it too
            return continuing_tokens(self.tokenizer, len(layer.weight)).to(self.device)

    def encode(
        self, prompt: str, target: str, subject: str | None = None, joiner: Joiner = "auto"
    ) -> Encoded:
        """A prompt with its answer, as this model's task has it.

        Raises:
            FactError: the model cannot answer with this target.
        """
        return self.task.encode(self.tokenizer, prompt, target, subject, joiner)

    def chat_prompt(self, question: str) -> str | None:
        """A question as the user's turn of the model's own chat template, up to where the answer begins.

        None for a model without a chat template, and for one whose answers are no text that goes on.
        """
        return chat_prompt(self.tokenizer, question) if isinstance(self.task, CausalLM) else None

    def chat_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation as the model's own chat template puts it; raises as `tokenization.chat_text`."""
        return chat_text(self.tokenizer, messages)

    def _activation_bytes(self) -> int:
        """What a token takes while a loss is propagated back to the edited modules; at least 1.

        Counted on the model itself: all that a short pass keeps for its backward pass, once more for
        gradients.
        """
        own = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        def requiring(module: EditedModule, inputs: Tensor) -> Tensor:
            output = module.base(inputs)
            return output if output.requires_grad else output.detach().requires_grad_()

        probe = Encoded((self.pad_id,) * PROBE_TOKENS, PROBE_TOKENS - PROBE_ANSWER)
        batch = self.task.collate([probe], [0], self.pad_id).to(self.device)
        saving = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with torch.enable_grad(), intercepting(requiring), saving:
            loss = self.task.answer_logits(self.model, batch).float().logsumexp(1).sum()
        del loss
        return max(1, 2 * sum(kept.values()) // PROBE_TOKENS)

    def parameters_digest(self) -> str:
        """SHA-256 over every parameter and buffer of the base: ``sha256:…``; it never changes."""
        return weights_digest(self.model.state_dict())

    def version(self, delta: Delta) -> Version:
        """Make the overlay ``base + delta``.

        The sum is taken in float64 and rounded once, so that it does not depend on how a product was blocked.

        Raises:
            EditorMismatch: the delta names a module that is not edited here, or has another shape.
            NotFiniteError: a weight would not be finite; nothing is made.
        """
        weights: dict[str, Tensor] = {}
        for name, change in delta.modules.items():
            module = self.modules.get(name)
            if module is None or module.shape != change.shape:
                raise EditorMismatch(
                    f"The delta's module {name!r} {change.shape} is not an edited module of this model.",
                    "Use a delta that was made for this model and its list of modules.",
                )
            weight = module.weight_UV
            weights[name] = (weight.double() + change.dense(torch.float64, weight.device)).to(weight.dtype)
            if not bool(torch.isfinite(weights[name]).all()):
                raise NotFiniteError(
                    f"The new weight of {name!r} is not finite.", "Edit fewer or other facts."
                )
        effective = {name: weights.get(name, module.weight_UV) for name, module in self.modules.items()}
        return Version(weights, weights_digest(effective), delta.digest)


def _device(name: str) -> torch.device:
    """One device by name; ``auto`` is a GPU if there is one.

    Raises:
        ModelNotLoadable: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ModelNotLoadable(
            f"There is no device {name!r} here.",
            "Use auto, cpu, cuda, or cuda:1 and so on; a model lies on one device as a whole.",
            "/device",
        ) from error


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices by itself; others take hundreds of times as long."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def _plain_decoding(configured: Any) -> GenerationConfig:
    """Decoding that a checkpoint's penalties, beams and suppressed tokens do not bend: its token ids alone."""
    named = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    return GenerationConfig(**{name: getattr(configured, name, None) for name in named})


def _output_layer(model: Any) -> nn.Module:
    layer: nn.Module = model.get_output_embeddings()
    return layer


def _projection(model: nn.Module, name: str) -> Any:
    return model.get_submodule(name)

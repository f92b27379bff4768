"""Whether exported files answer as the version does: loaded as anyone would load them, and compared."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from malmen_core.errors import ExportRefused
from malmen_core.export.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PREFIX
from malmen_core.models.base import DTYPES, BaseModel
from malmen_core.models.checkpoint import checkpoint_folder
from malmen_core.models.overlay import Version
from malmen_core.models.tokenization import Encoded

TOLERANCES = {"float64": 1e-4, "float32": 1e-4, "float16": 1e-2, "bfloat16": 0.1}
"""Greatest relative error of the logits at an answer token, by the coarser dtype of the two models."""


@dataclass(frozen=True)
class Fidelity:
    """How far the loaded files are from the version.

    Attributes:
        sequences: how many were compared.
        tokens: how many answer tokens they have.
        error: greatest relative error of an answer token's logits: ``‖b - a‖ / ‖a‖``, both centred.
        argmax_changed: answer tokens at which the two models' first choices differ.
        tolerance: that `error` may reach.
    """

    sequences: int
    tokens: int
    error: float
    argmax_changed: int
    tolerance: float

    def check(self) -> None:
        """Refuse what is too far off.

        Raises:
            ExportRefused: the error is above the tolerance, or not a number.
        """
        if not self.error <= self.tolerance:
            raise ExportRefused(
                f"What was written does not answer as the version does: on {self.sequences} sequences the "
                f"logits differ by {self.error:.2g} of their size, and {self.tolerance:g} is allowed.",
                "Export it in the dtype in which it is served (--dtype), or in the other format.",
            )


def compare(
    served: BaseModel, version: Version, loaded: Any, sequences: Sequence[Encoded], tolerance: float
) -> Fidelity:
    """Run both models on each sequence alone, and compare their logits at the answers' tokens.

    Args:
        served: the base as workers load it.
        version: the overlay that is served.
        loaded: a Transformers or PEFT model, on the same device.
        sequences: with answers; at least one.
        tolerance: of the result.
    """
    errors, changed, tokens = [], 0, 0
    for sequence in sequences:
        with version.active():
            ours_AX = plain_logits(served.model, sequence)
        theirs_AX = plain_logits(loaded, sequence)
        errors.append(float(((theirs_AX - ours_AX).norm(dim=1) / ours_AX.norm(dim=1)).max()))
        changed += int((ours_AX.argmax(1) != theirs_AX.argmax(1)).sum())
        tokens += len(sequence.answer)
    return Fidelity(len(errors), tokens, float(torch.tensor(errors).max()), changed, tolerance)


def plain_logits(model: Any, sequence: Encoded) -> Tensor:
    """Centred logits at the positions that predict the answer: A × X, float64, on the CPU."""
    with torch.inference_mode():
        ids = torch.tensor([sequence.ids], device=model.device)
        logits_AX: Tensor = model(input_ids=ids).logits[0, sequence.answer_start - 1 : -1].double().cpu()
    return logits_AX - logits_AX.mean(1, keepdim=True)


def coarser(first: str, second: str) -> str:
    """The dtype, of two by name, that allows the greater error."""
    return max(first, second, key=lambda name: TOLERANCES[name])


def load_checkpoint(folder: Path, device: torch.device) -> Any:
    """Load an exported checkpoint with plain Transformers, in the dtype that it was written in."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return loaded.to(device).eval()


def load_adapter(served: BaseModel, folder: Path) -> tuple[Any, str]:
    """Load a plain base in the served dtype and the exported adapter on it.

    Returns:
        the model, and what read the adapter: PEFT where it is installed, and else this module, which does
        what the format's description says.
    """
    source = checkpoint_folder(served.info.source, served.info.revision)
    plain: Any = AutoModelForCausalLM.from_pretrained(source, dtype=served.dtype)
    plain = plain.to(served.device).eval()
    if find_spec("peft") is None:
        add_adapter(plain, folder)
        return plain, "errata (PEFT is not installed)"
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what PEFT asks of Transformers is not ours to change
        return PeftModel.from_pretrained(plain, str(folder)).eval(), f"peft {version_of('peft')}"


def add_adapter(model: Any, folder: Path) -> None:
    """Add ``lora_alpha / r · B A`` of an adapter's files to a model's weights, as PEFT's format means it."""
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    scale = config["lora_alpha"] / config["r"]
    with torch.no_grad():
        for name in config["target_modules"]:
            a_RU, b_VR = (tensors[f"{PREFIX}{name}.lora_{part}.weight"].double() for part in "AB")
            change = scale * (b_VR @ a_RU)
            weight = model.get_submodule(name).weight
            change = (change.T if config["fan_in_fan_out"] else change).to(weight.device)
            weight.copy_((weight.double() + change).to(weight.dtype))


def dtype_name(model: BaseModel) -> str:
    """Name of the dtype that a base is loaded in."""
    return next(name for name, dtype in DTYPES.items() if dtype == model.dtype)

"""Files that other programs load: a version as a whole checkpoint, or its delta as a PEFT LoRA adapter."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from malmen_core.errors import ExportRefused
from malmen_core.models.base import DTYPES, BaseModel
from malmen_core.models.checkpoint import COMPANIONS, checkpoint_folder, stored_dtypes, weight_files
from malmen_core.models.delta import Change, Delta
from malmen_core.models.overlay import Version
from malmen_core.models.tasks.causal import CausalLM

OWN = "errata"
"""Beginning of the names of files that say something of the source's weights."""
LARGEST_RANK = 512
"""The greatest rank that vLLM serves."""
TRUNCATION = 1e-3
"""Greatest relative error (Frobenius norm) by which a change may be cut to a lower rank."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """What was written as an adapter.

    Attributes:
        rank: of every module, the greatest that one of them needs; the others are padded with zeros.
        truncation: greatest relative error of a module's change; 0 when its factors were kept.
    """

    rank: int
    truncation: float


def checkpoint_dtype(folder: Path) -> str:
    """Name of the dtype that a checkpoint's weights are stored in: that of its first tensor of floats.

    Raises:
        ExportRefused: the checkpoint holds no floats.
    """
    for file in weight_files(folder):
        for dtype in stored_dtypes(file):
            if dtype in DTYPES:
                return dtype
    raise ExportRefused(
        f"{str(folder)!r} holds no weights in a dtype that can be edited.",
        f"Register a checkpoint in one of: {', '.join(DTYPES)}.",
    )


def check_exportable(base: BaseModel) -> None:
    """Check that what is written could be compared with what is served.

    Raises:
        ExportRefused: the model is no causal language model.
    """
    if not isinstance(base.task, CausalLM):
        raise ExportRefused(
            f"Versions of a {base.task.name} model cannot be exported yet.",
            "Export versions of causal language models.",
        )


def write_checkpoint(base: BaseModel, version: Version, folder: Path) -> None:
    """Write base + delta and its config as Transformers does, with the base's own other files (tokenizer, …).

    Args:
        base: loaded in the dtype to be written.
        version: made on that base.
        folder: there already, and empty.
    """
    state = dict(base.model.state_dict())
    for name, weight_UV in version.weights.items():
        module = base.modules[name].module
        weight = weight_UV if isinstance(module, Conv1D) else weight_UV.T
        state[f"{name}.weight"] = weight.contiguous()
    base.model.save_pretrained(folder, state_dict=state)
    source = checkpoint_folder(base.info.source, base.info.revision)
    for pattern in COMPANIONS:
        for file in source.glob(pattern):
            ours = file.name == "config.json" or file.name.startswith(OWN)
            if not ours and not file.name.endswith(".index.json"):
                shutil.copyfile(file, folder / file.name)


def write_adapter(
    base: BaseModel,
    delta: Delta,
    folder: Path,
    *,
    largest_rank: int = LARGEST_RANK,
    truncation: float = TRUNCATION,
) -> Adapter:
    """Write a delta as a PEFT LoRA adapter in float32, with ``lora_alpha = r``, so that its scale is 1.

    A change that is kept as factors keeps them, without the rows that change nothing (the anchors'); a dense
    one, or one of too great a rank, is factored by singular values.

    Args:
        base: the base that the delta belongs to.
        delta: of a version.
        folder: there already, and empty.
        largest_rank: greatest rank of a module.
        truncation: greatest relative error (Frobenius norm) of a module's change.

    Raises:
        ExportRefused: the delta is empty, or a module needs a greater rank.
    """
    if not delta.modules:
        raise ExportRefused(
            "The version changes nothing, so there is no adapter.", "Use the base model itself."
        )
    factors = {
        name: _factors(name, change, largest_rank, truncation) for name, change in delta.modules.items()
    }
    rank = max(1, *(left.shape[1] for left, _, _ in factors.values()))
    tensors: dict[str, Tensor] = {}
    for name, (left_UR, right_RV, _) in factors.items():
        missing = rank - left_UR.shape[1]
        left = torch.nn.functional.pad(left_UR, (0, missing))
        right = torch.nn.functional.pad(right_RV, (0, 0, 0, missing))
        tensors[f"{PREFIX}{name}.lora_A.weight"] = left.T.float().contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = right.T.float().contiguous()
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = _adapter_config(base, list(factors), rank)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return Adapter(rank, max(error for _, _, error in factors.values()))


def _adapter_config(base: BaseModel, modules: list[str], rank: int) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.info.source,
        "revision": base.info.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": isinstance(base.modules[modules[0]].module, Conv1D),
        "target_modules": modules,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def _factors(name: str, change: Change, largest_rank: int, truncation: float) -> tuple[Tensor, Tensor, float]:
    """Factors of a change, U × R and R × V, and the relative error of their product."""
    left_UR, right_RV = change.left_UR, change.right_RV
    if left_UR is not None and right_RV is not None and len(right_RV) <= largest_rank:
        return left_UR, right_RV, 0.0
    left_UR, values_R, right_RV = torch.linalg.svd(change.dense(torch.float64), full_matrices=False)
    squares_R = values_R.square()
    lost_R = (squares_R.flip(0).cumsum(0).flip(0) / squares_R.sum().clamp_min(1e-300)).sqrt()
    lost = [*lost_R.tolist(), 0.0]  # by the number of singular values that are kept
    rank = next(kept for kept, error in enumerate(lost) if error <= truncation)
    if rank > largest_rank:
        raise ExportRefused(
            f"The change of {name!r} needs rank {rank}; at rank {largest_rank} "
            f"{lost[largest_rank]:.2g} of it would be lost, and {truncation:g} is allowed.",
            "Export the version as a whole checkpoint (--format hf).",
            "/format",
        )
    roots_R = values_R[:rank].sqrt()
    return left_UR[:, :rank] * roots_R, roots_R[:, None] * right_RV[:rank], lost[rank]

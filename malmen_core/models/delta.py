"""A delta: the change of the edited modules' weights, factored or dense, whichever is smaller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from malmen_core.errors import DeltaCorrupt
from malmen_core.serialization import digest, pack, unpack


@dataclass(frozen=True)
class Change:
    """The change of one module's weight, input-major: ``left @ right``, or `dense_UV`.

    Attributes:
        left_UR: U × R, or None.
        right_RV: R × V, or None.
        dense_UV: U × V, or None; exactly one of the two forms is there.
    """

    left_UR: Tensor | None = None
    right_RV: Tensor | None = None
    dense_UV: Tensor | None = None

    @classmethod
    def smaller(cls, left_UR: Tensor, right_RV: Tensor) -> Change:
        """Keep two factors as they are, or multiplied out if that takes less room; in float32."""
        inputs, rank, outputs = left_UR.shape[0], left_UR.shape[1], right_RV.shape[1]
        if rank * (inputs + outputs) < inputs * outputs:
            return cls(left_UR=left_UR.float(), right_RV=right_RV.float())
        return cls(dense_UV=(left_UR.double() @ right_RV.double()).float())

    @property
    def shape(self) -> tuple[int, int]:
        """Input and output features: (U, V)."""
        if self.left_UR is not None and self.right_RV is not None:
            return self.left_UR.shape[0], self.right_RV.shape[1]
        assert self.dense_UV is not None
        return self.dense_UV.shape[0], self.dense_UV.shape[1]

    def dense(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """The change multiplied out: U × V, in `dtype`, on `device`."""
        if self.left_UR is not None and self.right_RV is not None:
            return self.left_UR.to(device, dtype) @ self.right_RV.to(device, dtype)
        assert self.dense_UV is not None
        return self.dense_UV.to(device, dtype)


@dataclass(frozen=True)
class Delta:
    """The changes of all edited modules; a version's weights are the base's plus these.

    Attributes:
        modules: change by module name; empty for the base itself.
    """

    modules: Mapping[str, Change]

    @classmethod
    def empty(cls) -> Delta:
        """The delta of the base: no change at all."""
        return cls({})

    @cached_property
    def _packed(self) -> bytes:
        tensors: dict[str, Tensor] = {}
        for name, change in self.modules.items():
            parts = {"left": change.left_UR, "right": change.right_RV, "dense": change.dense_UV}
            tensors |= {f"{name}:{part}": tensor for part, tensor in parts.items() if tensor is not None}
        return pack("delta", {"modules": list(self.modules)}, tensors)

    def to_bytes(self) -> bytes:
        """Safetensors bytes; equal deltas give equal bytes."""
        return self._packed

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` of `to_bytes`."""
        return digest(self._packed)

    @classmethod
    def from_bytes(cls, data: bytes) -> Delta:
        """Read what `to_bytes` wrote.

        Raises:
            DeltaCorrupt: the bytes are something else.
        """
        card, tensors = unpack("delta", data)
        try:
            return cls({name: _change(name, tensors) for name in card["modules"]})
        except (KeyError, TypeError) as error:
            raise DeltaCorrupt(f"The delta lacks {error}.", "Restore it from a backup.") from error


def _change(name: str, tensors: Mapping[str, Tensor]) -> Change:
    if f"{name}:dense" in tensors:
        return Change(dense_UV=tensors[f"{name}:dense"])
    return Change(left_UR=tensors[f"{name}:left"], right_RV=tensors[f"{name}:right"])

"""Running an immutable base with other weights: interception of its modules, in this thread alone.

Each edited module asks, at every forward pass, whether the calling thread has an interceptor. With none, it
is the
base model's. So a generation thread can serve version 7 while an edit captures gradients on the base, on
one copy
of the weights, and no parameter of the base is ever written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D


class EditedModule:
    """A projection of the base model whose forward pass can be intercepted.

    Attributes:
        name: the module's name in the model.
        module: the projection itself; its parameters are only read.
    """

    def __init__(self, name: str, module: nn.Linear | Conv1D) -> None:
        self.name = name
        self.module = module
        self._base_forward: Callable[[Tensor], Tensor] = module.forward
        module.forward = self._forward  # type: ignore[method-assign]

    @staticmethod
    def release(module: nn.Module) -> None:
        """Give a copied projection its own forward pass back."""
        del module.forward

    @property
    def weight_UV(self) -> Tensor:
        """The base weight, input-major, as a view: U × V, dtype and device of the base."""
        weight: Tensor = self.module.weight.detach()
        return weight if isinstance(self.module, Conv1D) else weight.T

    @property
    def shape(self) -> tuple[int, int]:
        """Input and output features: (U, V)."""
        return self.weight_UV.shape[0], self.weight_UV.shape[1]

    def base(self, inputs: Tensor) -> Tensor:
        """What the untouched base gives for `inputs` (… × U): … × V."""
        return self._base_forward(inputs)

    def with_weight(self, inputs: Tensor, weight_UV: Tensor) -> Tensor:
        """The projection of `inputs` (… × U) by another weight and the base's own bias: … × V.

        Args:
            inputs: in the base's dtype.
            weight_UV: of any floating dtype; gradients flow through it.
        """
        return functional.linear(inputs, weight_UV.T.to(inputs.dtype), self.module.bias)

    def _forward(self, inputs: Tensor) -> Tensor:
        interceptor = _INTERCEPTOR.get()
        return self.base(inputs) if interceptor is None else interceptor(self, inputs)


Interceptor = Callable[[EditedModule, Tensor], Tensor]
_INTERCEPTOR: ContextVar[Interceptor | None] = ContextVar("malmen_core_interceptor", default=None)


class Weights:
    """An interceptor that runs edited modules with other weights, through which gradients flow.

    Attributes:
        weights: by module name, U × V.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights

    @classmethod
    def shifted(cls, modules: Mapping[str, EditedModule], shifts: Mapping[str, Tensor]) -> Weights:
        """Modules at ``W + S``, where `S` is U × V by module; summed in float64 and rounded once."""
        sums = {}
        for name, module in modules.items():
            weight_UV = module.weight_UV
            sums[name] = (weight_UV.double() + shifts[name].to(weight_UV.device)).to(weight_UV.dtype)
        return cls(sums)

    def __call__(self, module: EditedModule, inputs: Tensor) -> Tensor:
        """Project by the module's other weight, or by its own if it has none."""
        weight_UV = self.weights.get(module.name)
        return module.base(inputs) if weight_UV is None else module.with_weight(inputs, weight_UV)


class ByRow:
    """An interceptor that runs each row of a batch with the weights of its version."""

    def __init__(self, versions: Sequence[Version]) -> None:
        self._parts: dict[str, tuple[Weights, list[int]]] = {}
        for row, version in enumerate(versions):
            part = self._parts.setdefault(version.weights_digest, (Weights(version.weights), []))
            part[1].append(row)

    def __call__(self, module: EditedModule, inputs: Tensor) -> Tensor:
        """Project inputs (B × … × U), each row by its version's weight."""
        if len(self._parts) == 1:
            return next(iter(self._parts.values()))[0](module, inputs)
        outputs = inputs.new_empty(*inputs.shape[:-1], module.shape[1])
        for weights, rows in self._parts.values():
            outputs[rows] = weights(module, inputs[rows])
        return outputs


@contextmanager
def intercepting(interceptor: Interceptor | None) -> Iterator[None]:
    """For this thread's forward passes, replace the output of each edited module; None shows the base."""
    token = _INTERCEPTOR.set(interceptor)
    try:
        yield
    finally:
        _INTERCEPTOR.reset(token)


class OutputLayer:
    """The layer that makes logits, run at wanted positions only: it is a fifth of a small model's work.

    Its input is gathered to one row, which whatever follows it treats like any other.
    """

    def __init__(self, module: nn.Module) -> None:
        module.register_forward_pre_hook(self._gather)

    @staticmethod
    def release(module: nn.Module) -> None:
        """Take the interception off a copied layer."""
        module._forward_pre_hooks.clear()

    @contextmanager
    def reading(self, row_A: Tensor, column_A: Tensor) -> Iterator[None]:
        """For this thread's forward passes, logits are 1 × A × X: one for each row and column of a batch."""
        token = _READING.set((self, (row_A, column_A)))
        try:
            yield
        finally:
            _READING.reset(token)

    def _gather(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        layer, positions_A = _READING.get()
        hidden = inputs[0][positions_A][None] if layer is self else inputs[0].contiguous()
        return hidden, *inputs[1:]  # torch would copy the weights for each row of an input with gaps


_Reading = tuple[OutputLayer | None, tuple[Tensor, ...]]
_READING: ContextVar[_Reading] = ContextVar("malmen_core_reading", default=(None, ()))


@dataclass(frozen=True)
class Version:
    """An overlay: the edited modules' weights of one version, ready to be run.

    Attributes:
        weights: new weight by module name, U × V, in the base's dtype; empty for the base itself.
        weights_digest: ``sha256:…`` over the effective weights of every edited module of the base, in order.
        delta_digest: digest of the delta that this was made from.
    """

    weights: Mapping[str, Tensor]
    weights_digest: str
    delta_digest: str

    @contextmanager
    def active(self) -> Iterator[None]:
        """Run this thread's forward passes with this version's weights."""
        with intercepting(Weights(self.weights) if self.weights else None):
            yield


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of weights, in the mapping's order: ``sha256:…``."""
    digest = hashlib.sha256()
    for name, weight in weights.items():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        digest.update(tensor_bytes(weight))
    return f"sha256:{digest.hexdigest()}"


def tensor_bytes(tensor: Tensor) -> memoryview:
    """A tensor's elements as bytes, in row-major order, whatever its dtype or device."""
    flat = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())  # type: ignore[arg-type]

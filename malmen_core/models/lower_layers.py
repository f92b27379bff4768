"""The layers below the first edited one give the same in every version, so they are run once for a text.

The first teacher-forced pass over a sequence keeps what enters the first edited layer; later passes, of any
version, begin there. What is kept is bounded, and the oldest goes first.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

LAYER = re.compile(r"^(.*?)\.(\d+)\.")
CAPACITY = 2**29
"""Bytes kept."""


@dataclass
class _Pass:
    """One forward pass: what enters the first edited layer, given or found."""

    given_BLV: Tensor | None = None
    found_BLV: Tensor | None = None
    plain: bool = field(default=True)


_PASS: ContextVar[_Pass | None] = ContextVar("malmen_core_lower_layers", default=None)


class LowerLayers:
    """Keeps the input of the first edited layer, by token ids.

    Only for decoders whose layers take and give one tensor; of others every pass is whole.

    Attributes:
        usable: whether the edited modules lie in one stack of numbered layers, and not in its first.
    """

    def __init__(self, model: nn.Module, modules: Sequence[str], capacity: int = CAPACITY) -> None:
        """Find the layers of a decoder, and intercept those up to the first edited one."""
        self._kept: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self._bytes, self._capacity = 0, capacity
        self._lock = threading.Lock()
        found = [match for match in map(LAYER.match, modules) if match is not None]
        self._first = min((int(match[2]) for match in found), default=0)
        self.usable = self._first > 0 and len({match[1] for match in found}) == 1
        if self.usable:
            layers: Any = model.get_submodule(found[0][1])
            for number in range(self._first + 1):
                self._intercept(layers[number], number)

    def _intercept(self, layer: Any, number: int) -> None:
        own = layer.forward

        def forward(hidden: Any, *args: Any, **options: Any) -> Any:
            running = _PASS.get()
            if running is None:
                return own(hidden, *args, **options)
            if number == self._first:
                if running.given_BLV is not None:
                    hidden = running.given_BLV
                elif running.plain:
                    running.found_BLV = hidden
                return own(hidden, *args, **options)
            if running.given_BLV is not None:
                return hidden
            output = own(hidden, *args, **options)
            running.plain &= isinstance(output, Tensor)
            return output

        layer.forward = forward

    def forget(self) -> None:
        """Keep nothing of before, so that what is computed from here on depends on nothing of before.

        How a state was rounded depends on the batch that it was computed in.
        """
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    @contextmanager
    def running(self, texts: Sequence[tuple[int, ...]], width: int) -> Iterator[None]:
        """For one forward pass of this thread over some texts (token ids, padded on the left to a width)."""
        if not self.usable:
            yield
            return
        running = _Pass(self._read(texts, width))
        token = _PASS.set(running)
        try:
            yield
        finally:  # a pass that ended above the first edited layer has found what enters it
            _PASS.reset(token)
            if running.given_BLV is None and running.found_BLV is not None and running.plain:
                self._keep(texts, running.found_BLV)

    def states(self, texts: Sequence[tuple[int, ...]]) -> list[Tensor] | None:
        """What enters the first edited layer, L × V for each text; None if one of them is not kept."""
        with self._lock:
            return [self._kept[ids] for ids in texts] if all(ids in self._kept for ids in texts) else None

    def put(self, ids: tuple[int, ...], state_LV: Tensor) -> None:
        """Keep what `states` gave for a text before."""
        with self._lock:
            if ids not in self._kept:
                self._kept[ids] = state_LV
                self._bytes += state_LV.nbytes
            self._shrink()

    def _read(self, texts: Sequence[tuple[int, ...]], width: int) -> Tensor | None:
        with self._lock:
            if any(ids not in self._kept for ids in texts):
                return None
            rows = [self._kept[ids] for ids in texts]
            for ids in texts:
                self._kept.move_to_end(ids)
        out = rows[0].new_zeros(len(rows), width, rows[0].shape[1])
        for number, row_LV in enumerate(rows):
            out[number, width - len(row_LV) :] = row_LV
        return out

    def _keep(self, texts: Sequence[tuple[int, ...]], hidden_BLV: Tensor) -> None:
        with self._lock:
            for ids, row_LV in zip(texts, hidden_BLV.detach(), strict=True):
                if ids not in self._kept:
                    self._kept[ids] = row_LV[len(row_LV) - len(ids) :].clone()
                    self._bytes += self._kept[ids].nbytes
            self._shrink()

    def _shrink(self) -> None:
        while self._bytes > self._capacity and self._kept:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes

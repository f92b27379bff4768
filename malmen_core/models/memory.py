"""How much of a device's memory a pass through the model may take, and batches that keep to it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from malmen_core.errors import OutOfDeviceMemory

CPU_TOKENS, GPU_TOKENS = 768, 8192
"""Padded tokens of a batch beyond which a pass gets no faster: measured on two cores, and set on a GPU."""
SHARE = 2
"""A pass's activations may take one in so many parts of a budget; statistics have the rest."""
FORWARD = 6
"""So many times as many tokens fit where layers keep nothing for a backward pass."""
Result = TypeVar("Result")


class MemoryBudget:
    """What fits on the device of one loaded model, besides the model.

    Batches change speed and memory; sums over them are rounded in another order, and that is all that a
    result depends on them.

    Attributes:
        tokens: padded tokens of a batch with a backward pass at most.
        fitting: as many as the budget and the device hold, as far as that is known; halved for good when the
            device's memory did not suffice.
    """

    def __init__(self, device: torch.device, limit: int | None, bytes_per_token: int) -> None:
        """Find the largest batch within a budget.

        Args:
            device: that the model is on.
            limit: bytes; None for no bound of our own.
            bytes_per_token: that a pass with gradients keeps.

        Raises:
            OutOfDeviceMemory: the limit does not hold one token.
        """
        self._device = device
        self._limit = limit
        self.tokens = CPU_TOKENS if device.type == "cpu" else GPU_TOKENS
        self.fitting = sys.maxsize
        if limit is None:
            return
        if bytes_per_token * SHARE > limit:
            raise OutOfDeviceMemory(
                f"A memory budget of {limit:,} bytes does not hold one token's activations.",
                f"Give at least {bytes_per_token * SHARE:,} bytes, or a few hundred times that to be fast.",
                "/memory_budget",
            )
        self.fitting = limit // SHARE // bytes_per_token
        self.tokens = min(self.tokens, self.fitting)

    @property
    def forward_tokens(self) -> int:
        """Padded tokens of a batch at most that only goes forward, where no layer keeps anything."""
        return FORWARD * self.tokens

    def device_for(self, statistics_bytes: int) -> torch.device:
        """Where statistics are solved: on the device, or in host memory if their part does not hold them."""
        fits = self._limit is None or statistics_bytes <= self._limit - self._limit // SHARE
        return self._device if fits else torch.device("cpu")

    def run(
        self, wanted: int | None, longest: int, make: Callable[[int], Result], *, forward: bool = False
    ) -> Result:
        """Make a pass over sequences, with batches halved as long as the device's memory does not suffice.

        Args:
            wanted: padded tokens of a batch at most; None for as many as are fast.
            longest: tokens of the longest sequence, which is the least that a batch may hold.
            make: makes the whole pass with batches of that many tokens, and can be begun anew.
            forward: the pass has no gradients, so that more tokens fit.

        Raises:
            OutOfDeviceMemory: not even one sequence fits.
        """
        share = FORWARD if forward else 1
        while True:
            tokens = min(self.tokens if wanted is None else wanted, share * self.fitting)
            try:
                return make(tokens)
            except torch.OutOfMemoryError:
                pass  # the failed pass's tensors are held by the error, which must be gone before the next
            if tokens <= max(longest, share):
                raise OutOfDeviceMemory(
                    f"A sequence of {longest} tokens does not fit into the device's memory.",
                    "Shorten the longest prompt, or use a larger device.",
                    "/facts",
                )
            self.fitting = max(1, tokens // 2 // share)
            self.tokens = min(self.tokens, self.fitting)
            torch.cuda.empty_cache()

    def generate(
        self, prompts: Sequence[Sequence[int]], tokens: int, make: Callable[[slice], list[Result]]
    ) -> list[Result]:
        """Let prompts be answered: all together if there is room, else some at a time.

        Args:
            prompts: token ids of each.
            tokens: of an answer at most; they are kept as the prompt's are.
            make: answers some of the prompts, and can be begun anew.

        Raises:
            OutOfDeviceMemory: not even one of them fits.
        """
        width = max(len(ids) for ids in prompts) + tokens

        def in_parts(limit: int) -> list[Result]:
            rows = max(1, limit // width)
            return [each for i in range(0, len(prompts), rows) for each in make(slice(i, i + rows))]

        return self.run(len(prompts) * width, width, in_parts, forward=True)

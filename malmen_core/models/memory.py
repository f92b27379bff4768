"""How much of the device's memory a pass through the model may take, and batches that keep to it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from malmen_core.errors import OutOfDeviceMemory
from malmen_core.models.overlay import EditedModule, intercepting
from malmen_core.models.tokenization import Encoded

if TYPE_CHECKING:
    from malmen_core.models.base import BaseModel

CPU_TOKENS, GPU_TOKENS = 384, 8192
CPU_PASS, GPU_PASS = 64, 1024
"""What a pass takes however few its tokens are, in tokens: measured on two cores, and set on a GPU."""
PROBE_TOKENS = 32
PROBE_ANSWER = 4
GRADIENTS = 2
SHARE = 2
FORWARD = 6
Result = TypeVar("Result")


class Room:
    """What fits on the device of one loaded model, besides the model.

    Half of the budget is for a pass's activations, half for statistics. Batches change speed and memory; sums
    over them are rounded in another order, and that is all that a result depends on them.

    Attributes:
        budget: bytes; None for no bound of our own.
        tokens: padded tokens of a batch at most, as many as are fast; fewer if the memory does not suffice.
        fitting: as many as the budget and the device hold, as far as that is known; halved for good when the
            device's memory did not suffice.
        pass_tokens: tokens that take as long as what a pass takes however few they are.
    """

    def __init__(self, base: BaseModel, budget: int | None) -> None:
        """Find the largest batch within a budget.

        Raises:
            OutOfDeviceMemory: the budget does not hold the activations of one token.
        """
        self.budget = budget
        self._device = base.device
        on_cpu = base.device.type == "cpu"
        self.tokens, self.pass_tokens = (CPU_TOKENS, CPU_PASS) if on_cpu else (GPU_TOKENS, GPU_PASS)
        self.fitting = sys.maxsize
        if budget is None:
            return
        needed = activation_bytes(base)
        if needed * SHARE > budget:
            raise OutOfDeviceMemory(
                f"A memory budget of {budget:,} bytes does not hold one token's activations.",
                f"Give at least {needed * SHARE:,} bytes, or a few hundred times that to be fast.",
                "/memory_budget",
            )
        self.fitting = budget // SHARE // needed
        self.tokens = min(self.tokens, self.fitting)

    @property
    def forward_tokens(self) -> int:
        """Padded tokens of a batch at most that only goes forward, where no layer keeps anything."""
        return FORWARD * self.tokens

    def place(self, statistics_bytes: int) -> torch.device:
        """Where rows are refined: on the device, or in host memory if its half does not hold them."""
        fits = self.budget is None or statistics_bytes <= self.budget // SHARE
        return self._device if fits else torch.device("cpu")

    def within(
        self, wanted: int | None, longest: int, run: Callable[[int], Result], *, share: int = 1
    ) -> Result:
        """Make a pass over sequences, with batches halved as long as the device's memory does not suffice.

        Args:
            wanted: padded tokens of a batch at most; None for as many as are fast.
            longest: tokens of the longest sequence, which is the least that a batch may hold.
            run: makes the whole pass with batches of that many tokens, and can be begun anew.
            share: how many times as many tokens fit as in a pass with gradients; `FORWARD` where layers keep
                nothing.

        Raises:
            OutOfDeviceMemory: not even one sequence fits.
        """
        while True:
            tokens = min(self.tokens if wanted is None else wanted, share * self.fitting)
            try:
                return run(tokens)
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

    def writing(
        self, prompts: Sequence[Sequence[int]], tokens: int, write: Callable[[slice], list[Result]]
    ) -> list[Result]:
        """Let answers to prompts be written: all together if there is room, else some at a time.

        Args:
            prompts: token ids of each.
            tokens: of an answer at most; they are kept as the prompt's are.
            write: answers some of the prompts, and can be begun anew.

        Raises:
            OutOfDeviceMemory: not even one of them fits.
        """
        width = max(len(ids) for ids in prompts) + tokens

        def in_parts(limit: int) -> list[Result]:
            rows = max(1, limit // width)
            return [each for i in range(0, len(prompts), rows) for each in write(slice(i, i + rows))]

        return self.within(len(prompts) * width, width, in_parts, share=FORWARD)


def activation_bytes(base: BaseModel) -> int:
    """What a token takes while a loss is propagated back to the edited modules; at least 1.

    Counted on the model itself: all that a short pass keeps for its backward pass, once more for gradients.
    """
    own = {p.untyped_storage().data_ptr() for p in base.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def requiring(module: EditedModule, inputs: Tensor) -> Tensor:
        output = module.base(inputs)
        return output if output.requires_grad else output.detach().requires_grad_()

    probe = Encoded((base.pad_id,) * PROBE_TOKENS, PROBE_TOKENS - PROBE_ANSWER)
    batch = base.task.collate(base, [probe], [0])
    saving = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with torch.enable_grad(), intercepting(requiring), saving:
        loss = base.task.answer_logits(base, batch).float().logsumexp(1).sum()
    del loss
    return max(1, GRADIENTS * sum(kept.values()) // PROBE_TOKENS)

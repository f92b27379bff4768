"""What a pass finds at the edited tokens: keys, output gradients, and how each answer stands (section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from malmen_core.models.base import BaseModel
from malmen_core.models.batching import (
    answer_logits,
    batches,
    score_answers,
    smallest_by_sequence,
    sum_by_sequence,
)
from malmen_core.models.overlay import EditedModule, Weights, intercepting
from malmen_core.models.tasks.base import Batch, Reading
from malmen_core.models.tokenization import Encoded, KeyPosition, longest

KEYS_AT_ONCE = 4096
"""Tokens whose keys are kept at a time, at most."""

Position = tuple[str, int]
"""A stack, and a token in the text that it reads."""


@dataclass(frozen=True)
class Captured:
    """What one pass saw of some sequences, on the base's device.

    Attributes:
        keys: inputs of each module at the edited tokens, T × U; float32 (float64 for a float64 base).
        gradients: of each sequence's total negative log-likelihood with respect to the module's output
            there, T × V; likewise. Empty for a pass without gradients.
        sequence_T: the sequence of each row; int64.
        nll_Q: negative log-likelihood of each sequence's answer, in nats; float64.
        margin_Q: by how many nats each sequence's answer tokens beat all others at least; float64.
    """

    keys: dict[str, Tensor]
    gradients: dict[str, Tensor]
    sequence_T: Tensor
    nll_Q: Tensor
    margin_Q: Tensor


class _Recorder:
    """Keeps inputs and outputs of edited modules; outputs keep their gradient in a pass that has some."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    def __call__(self, module: EditedModule, inputs: Tensor) -> Tensor:
        output = self.weights(module, inputs)
        if torch.is_grad_enabled():
            output = output if output.requires_grad else output.detach().requires_grad_()
            output.retain_grad()
        self.inputs[module.name], self.outputs[module.name] = inputs.detach(), output
        return output


def capture(
    base: BaseModel,
    sequences: Sequence[Encoded],
    where: KeyPosition,
    *,
    weights: Weights | None = None,
    gradients: bool = True,
    batch_tokens: int | None = None,
) -> Captured:
    """Keys and gradients of every edited module at every edited token, and how the answers stand.

    A sequence's gradient does not depend on its batch. Stacks are edited at tokens of their own. All modules
    have a row for each of them, in the stacks' order; a row of another stack is zero, which adds nothing to
    ``K'K`` and ``K'D``.

    Args:
        base: the base model.
        sequences: prompts with answers.
        where: at which tokens, see `Encoded.key_positions`.
        weights: at which the edited modules are run; None for the base's own.
        gradients: whether to go backward too.
        batch_tokens: padded tokens of a batch at most; changes speed and memory, not the result.

    Raises:
        OutOfDeviceMemory: a sequence does not fit.
    """
    positions = [edited_positions(base, sequence, where) for sequence in sequences]
    run = partial(_capture, base, sequences, positions, weights or Weights({}), gradients)
    return base.memory.run(batch_tokens, longest(sequences), run, forward=not gradients)


def edited_positions(base: BaseModel, sequence: Encoded, where: KeyPosition) -> list[Position]:
    """Where a sequence's rows are taken, stack by stack."""
    stacks = [stack for stack in base.task.stacks(base.model) if stack in base.stack_of.values()]
    return [(stack, p) for stack in stacks for p in base.task.key_positions(sequence, where, stack)]


def _capture(
    base: BaseModel,
    sequences: Sequence[Encoded],
    positions: Sequence[Sequence[Position]],
    weights: Weights,
    gradients: bool,
    batch_tokens: int,
) -> Captured:
    owners = [i for i, own in enumerate(positions) for _ in own]
    first_row = [0, *accumulate(len(own) for own in positions)]
    dtype, place = torch.promote_types(base.dtype, torch.float32), base.device
    shapes = {name: module.shape for name, module in base.modules.items()}
    keys = {name: torch.zeros(len(owners), u, dtype=dtype, device=place) for name, (u, _) in shapes.items()}
    found = {n: torch.zeros(len(owners), v, dtype=dtype, device=place) for n, (_, v) in shapes.items()}
    nll_Q, margin_Q = torch.zeros(2, len(sequences), dtype=torch.float64, device=place)
    for batch in batches(base, sequences, batch_tokens=batch_tokens):
        recorder = _Recorder(weights)
        with torch.set_grad_enabled(gradients), intercepting(recorder):
            logits_AX = answer_logits(base, sequences, batch)
            scores = score_answers(logits_AX, batch.answer_A, base.continuing_X)
            if gradients:
                scores.nll_A.sum().backward()  # type: ignore[no-untyped-call]
        members = list(batch.members)
        nll_Q[members] = sum_by_sequence(batch, scores.nll_A.detach()).double()
        margin_Q[members] = smallest_by_sequence(batch, scores.margin_A).double()
        places = {s: _edited_tokens(batch, s, positions, first_row) for s in set(base.stack_of.values())}
        for name, stack in base.stack_of.items():
            rows, row_of, column_of = places[stack]
            keys[name][rows] = recorder.inputs[name][row_of, column_of].to(dtype)
            if gradients:
                gradient = recorder.outputs[name].grad
                assert gradient is not None
                found[name][rows] = gradient[row_of, column_of].to(dtype)
    return Captured(keys, found if gradients else {}, torch.tensor(owners, device=place), nll_Q, margin_Q)


class _AllSeen(Exception):
    """Ends a forward pass once every edited module has been given its input."""


def keys_everywhere(base: BaseModel, sequences: Sequence[Encoded]) -> dict[str, Tensor]:
    """Keys on the base at every position of some sequences, by module: N × U, float32 at least.

    Zero at positions that the module's stack does not read. The forward pass ends at the last edited module:
    what lies above is not computed.

    Raises:
        OutOfDeviceMemory: a sequence does not fit.
    """
    run = partial(_keys_everywhere, base, sequences)
    return base.memory.run(KEYS_AT_ONCE, longest(sequences), run, forward=True)


def _keys_everywhere(base: BaseModel, sequences: Sequence[Encoded], batch_tokens: int) -> dict[str, Tensor]:
    first_N = [0, *accumulate(len(sequence.ids) for sequence in sequences)]
    dtype = torch.promote_types(base.dtype, torch.float32)
    found = {
        name: torch.zeros(first_N[-1], module.shape[0], dtype=dtype, device=base.device)
        for name, module in base.modules.items()
    }
    for batch in batches(base, sequences, batch_tokens=batch_tokens):
        starts = [first_N[member] for member in batch.members]
        places = {stack: _all_tokens(reading, starts) for stack, reading in batch.readings.items()}
        seen = set[str]()

        def record(module: EditedModule, inputs: Tensor, places=places, seen=seen) -> Tensor:  # type: ignore[no-untyped-def]
            rows, row_of, column_of = places[base.stack_of[module.name]]
            found[module.name][rows] = inputs[row_of, column_of].to(dtype)
            seen.add(module.name)
            if len(seen) == len(base.modules):
                raise _AllSeen
            return module.base(inputs)

        with torch.inference_mode(), intercepting(record), suppress(_AllSeen):
            base.task.answer_logits(base.model, batch)
    return found


def keys_at(
    base: BaseModel, sequences: Sequence[Encoded], positions: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """Keys on the base at some positions of each sequence, by module: N × U, in order.

    What is kept at a time is bounded, however many sequences there are.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in base.modules}
    for some in _chunks(sequences):
        texts, starts = (
            [sequences[i] for i in some],
            accumulate((len(sequences[i].ids) for i in some), initial=0),
        )
        rows = [start + p for start, i in zip(starts, some, strict=False) for p in positions[i]]
        for name, keys_NU in keys_everywhere(base, texts).items():
            parts[name].append(keys_NU[rows])
    empty = {name: torch.zeros(0, base.modules[name].shape[0], device=base.device) for name in parts}
    return {name: torch.cat(part) if part else empty[name] for name, part in parts.items()}


def _chunks(sequences: Sequence[Encoded]) -> Iterator[list[int]]:
    chunk: list[int] = []
    tokens = 0
    for i, sequence in enumerate(sequences):
        if chunk and tokens + len(sequence.ids) > KEYS_AT_ONCE:
            yield chunk
            chunk, tokens = [], 0
        chunk.append(i)
        tokens += len(sequence.ids)
    if chunk:
        yield chunk


Places = tuple[list[int], list[int], list[int]]


def _edited_tokens(
    batch: Batch, stack: str, positions: Sequence[Sequence[Position]], first_row: Sequence[int]
) -> Places:
    """Rows of the set, and for each the row and column of the batch, of the tokens edited in one stack."""
    reading = batch.readings[stack]
    places = [
        (first_row[member] + number, row, reading.column(row, position))
        for row, member in enumerate(batch.members)
        for number, (where, position) in enumerate(positions[member])
        if where == stack
    ]
    return [p[0] for p in places], [p[1] for p in places], [p[2] for p in places]


def _all_tokens(reading: Reading, first_N: Sequence[int]) -> Places:
    """Likewise of all tokens that one stack reads."""
    spans = enumerate(zip(reading.begin_B, reading.end_B, strict=True))
    places = [(row, position) for row, (begin, end) in spans for position in range(begin, end)]
    rows = [first_N[row] + position for row, position in places]
    return rows, [row for row, _ in places], [reading.column(row, position) for row, position in places]

"""Keys and output gradients of the edited modules at the edited tokens, on the base (paper, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from malmen_core.models.base import BaseModel
from malmen_core.models.batching import AnswerScores, answer_logits, batches, score_answers, smallest_margins
from malmen_core.models.lanes import side_by_side
from malmen_core.models.memory import FORWARD
from malmen_core.models.overlay import EditedModule, Weights, intercepting
from malmen_core.models.tasks.base import Batch, Reading
from malmen_core.models.tasks.causal import read_ahead
from malmen_core.models.tokenization import Encoded, KeyPosition, longest

SURE = 1e-6
"""Of an answer that has all but so little of the probability, others are not told apart."""
KEYS_BATCH = 2048
"""Tokens whose keys are kept at a time, at most."""


@dataclass(frozen=True)
class Captured:
    """What one module saw at the edited tokens, in the sequences' order.

    Attributes:
        keys_TU: its inputs; float32 (float64 for a float64 base), on the CPU.
        gradients_TV: gradient with respect to its outputs of what the pass scores: the answers' total
            negative log-likelihood, or their log-odds; likewise.
    """

    keys_TU: Tensor
    gradients_TV: Tensor


class _Recorder:
    """Keeps inputs and outputs of edited modules; outputs keep their gradient."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    def __call__(self, module: EditedModule, inputs: Tensor) -> Tensor:
        output = self.weights(module, inputs)
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        output.retain_grad()
        self.inputs[module.name] = inputs.detach()
        self.outputs[module.name] = output
        return output


def capture(
    base: BaseModel,
    sequences: Sequence[Encoded],
    where: KeyPosition,
    *,
    weights: Weights | None = None,
    batch_tokens: int | None = None,
) -> tuple[dict[str, Captured], Tensor]:
    """Keys and gradients of every edited module at every edited token.

    The loss is the sum of the answers' token losses, so a sequence's gradient does not depend on its batch.
    Stacks are edited at tokens of their own. All modules have a row for each of them, in the stacks' order; a
    row of another stack is zero, which adds nothing to ``K'K`` and ``K'D``.

    Args:
        base: the base model.
        sequences: prompts with answers.
        where: at which tokens, see `Encoded.key_positions`.
        weights: at which the edited modules are run; None for the base's own.
        batch_tokens: padded tokens of a batch at most; changes speed and memory, not the result.

    Returns:
        Captured rows by module, and for each row the index of its sequence (int64, T).

    Raises:
        OutOfDeviceMemory: a sequence does not fit.
    """
    positions = [_positions(base, sequence, [where]) for sequence in sequences]
    run = partial(_capture, base, weights or Weights({}), lambda _, s: s.nll_A, sequences, positions)
    return base.room.within(batch_tokens, longest(sequences), run)


@dataclass(frozen=True)
class Answered:
    """What a pass found of some sequences' answers.

    Attributes:
        captured: keys by module, and the gradients that raise the odds.
        sequence_T: the sequence of each row.
        odds_Q: log-odds of each sequence's whole answer, ``log p/(1 - p)``, in nats; float64.
        margins_Q: by how many nats each sequence's answer tokens beat all others at least; float64.
    """

    captured: dict[str, Captured]
    sequence_T: Tensor
    odds_Q: Tensor
    margins_Q: Tensor


def capture_odds(
    base: BaseModel,
    weights: Weights,
    sequences: Sequence[Encoded],
    where: KeyPosition,
    *,
    batch_tokens: int | None = None,
) -> Answered:
    """Each sequence's log-odds at some weights, with keys and the gradients that raise them.

    They are the odds of the whole answer: its worst token, and the best of that one's rivals, change from
    step to step. Rows are those of every edited token and of those that answer, where a shift acts at once.

    Args:
        base: the base model.
        weights: at which the edited modules are run.
        sequences: prompts with answers.
        where: as `capture` has it.
        batch_tokens: likewise.

    Raises:
        OutOfDeviceMemory: a sequence does not fit.
    """
    odds_Q, margins_Q = torch.zeros(2, len(sequences), dtype=torch.float64)

    def log_odds(batch: Batch, scores: AnswerScores) -> Tensor:
        nll_B = scores.nll_A.new_zeros(len(batch.members)).index_add(0, batch.row_A, scores.nll_A)
        others_B = (-torch.expm1(-nll_B.detach())).clamp_min(SURE)  # 1 - p
        members = list(batch.members)
        odds_Q[members] = -(nll_B.detach() + others_B.log()).double().cpu()
        margins_Q[members] = smallest_margins(batch, scores.margin_A).double().cpu()
        return -nll_B / others_B

    positions = [_positions(base, sequence, [where, "answer"]) for sequence in sequences]
    run = partial(_capture, base, weights, log_odds, sequences, positions)
    return Answered(*base.room.within(batch_tokens, longest(sequences), run), odds_Q, margins_Q)


Position = tuple[str, int]
"""A stack, and a token in the text that it reads."""


def _positions(base: BaseModel, sequence: Encoded, wheres: Sequence[KeyPosition]) -> list[Position]:
    """Where a sequence's rows are taken, stack by stack."""
    stacks = [stack for stack in base.task.stacks(base.model) if stack in base.stack_of.values()]
    return [
        (stack, position)
        for stack in stacks
        for position in sorted({p for w in wheres for p in base.task.key_positions(sequence, w, stack)})
    ]


Objective = Callable[[Batch, AnswerScores], Tensor]
"""What a pass differentiates the sum of."""


def _capture(
    base: BaseModel,
    weights: Weights,
    objective: Objective,
    sequences: Sequence[Encoded],
    positions: Sequence[Sequence[Position]],
    batch_tokens: int,
) -> tuple[dict[str, Captured], Tensor]:
    sequence_T = torch.tensor([i for i, group in enumerate(positions) for _ in group], dtype=torch.int64)
    first_row = [0, *accumulate(len(group) for group in positions)]
    dtype = torch.promote_types(base.dtype, torch.float32)
    captured = {
        name: Captured(*(torch.zeros(len(sequence_T), width, dtype=dtype) for width in module.shape))
        for name, module in base.modules.items()
    }

    def run(batch: Batch) -> None:
        with intercepting(weights):
            batch = _read_ahead(base, batch, positions)
        recorder = _backward(base, weights, objective, batch)
        edited = {
            stack: _edited_tokens(batch, stack, positions, first_row) for stack in set(base.stack_of.values())
        }
        for name, stack in base.stack_of.items():
            gradient, own = recorder.outputs[name].grad, captured[name]
            assert gradient is not None
            rows, row_of, column_of = edited[stack]
            own.keys_TU[rows] = recorder.inputs[name][row_of, column_of].to(own.keys_TU)
            own.gradients_TV[rows] = gradient[row_of, column_of].to(own.gradients_TV)

    learning = [
        len(each.ids) - own[0][1] if base.shares_cache else len(each.ids)
        for each, own in zip(sequences, positions, strict=True)
    ]
    made = list(batches(base, sequences, batch_tokens=batch_tokens, learning=learning))
    side_by_side(base, run, made[::-1])
    return captured, sequence_T


def _read_ahead(base: BaseModel, batch: Batch, positions: Sequence[Sequence[Position]]) -> Batch:
    """What no gradient goes through is read ahead, where it is so much that a pass of its own is faster."""
    if not base.shares_cache:
        return batch
    first = [positions[member][0] for member in batch.members]
    columns = min(batch.readings[stack].column(row, p) for row, (stack, p) in enumerate(first))
    if columns * len(first) < base.room.pass_tokens:
        return batch
    return read_ahead(base, batch, columns)


class _AllSeen(Exception):
    """Ends a forward pass once every edited module has been given its input."""


def keys_everywhere(base: BaseModel, sequences: Sequence[Encoded]) -> dict[str, Tensor]:
    """Keys at every position of some sequences, by module: N × U, float32 at least.

    Zero at positions that the module's stack does not read. The forward pass ends at the last edited module:
    what lies above is not computed.

    Raises:
        OutOfDeviceMemory: a sequence does not fit.
    """
    run = partial(_keys_everywhere, base, sequences)
    return base.room.within(KEYS_BATCH, longest(sequences), run, share=FORWARD)


def _keys_everywhere(base: BaseModel, sequences: Sequence[Encoded], batch_tokens: int) -> dict[str, Tensor]:
    first_N = [0, *accumulate(len(sequence.ids) for sequence in sequences)]
    found: dict[str, Tensor] = {}
    for batch in batches(base, sequences, batch_tokens=batch_tokens):
        _keep_keys(base, batch, first_N, found)
    return found


def _keep_keys(base: BaseModel, batch: Batch, first_N: Sequence[int], found: dict[str, Tensor]) -> None:
    """Run a batch as far as the last edited module; each one's inputs join those of other batches."""
    starts = [first_N[member] for member in batch.members]
    places = {stack: _all_tokens(reading, starts) for stack, reading in batch.readings.items()}
    seen = set[str]()

    def record(module: EditedModule, inputs: Tensor) -> Tensor:
        if module.name not in found:
            dtype = torch.promote_types(inputs.dtype, torch.float32)
            found[module.name] = inputs.new_zeros(first_N[-1], inputs.shape[-1], dtype=dtype)
        rows, row_of, column_of = places[base.stack_of[module.name]]
        found[module.name][rows] = inputs[row_of, column_of].to(found[module.name])
        seen.add(module.name)
        if len(seen) == len(base.modules):
            raise _AllSeen
        return module.base(inputs)

    with torch.inference_mode(), intercepting(record), suppress(_AllSeen):
        base.task.answer_logits(base, batch)


def rows_at(sequences: Sequence[Encoded], positions: Sequence[Sequence[int]]) -> list[int]:
    """Where some positions of each sequence stand among those of all, which `keys_everywhere` gives."""
    starts = accumulate((len(sequence.ids) for sequence in sequences), initial=0)
    return [start + each for start, own in zip(starts, positions, strict=False) for each in own]


def keys_by_group(base: BaseModel, groups: Sequence[Sequence[Encoded]]) -> Iterator[dict[str, Tensor]]:
    """Keys at every position of each group of sequences, by module; groups share passes where they fit."""
    for batch in _kept_together(base, groups):
        counts = [sum(len(each.ids) for each in group) for group in batch]
        keys = keys_everywhere(base, [each for group in batch for each in group])
        parts = {name: torch.split(keys_NU, counts) for name, keys_NU in keys.items()}
        for number in range(len(batch)):
            yield {name: split[number] for name, split in parts.items()}


def _kept_together(base: BaseModel, groups: Sequence[Sequence[Encoded]]) -> Iterator[list[Sequence[Encoded]]]:
    """Neighbouring groups of sequences, as many as there is room for now; at least one group."""
    batch: list[Sequence[Encoded]] = []
    held = 0
    for group in groups:
        more = sum(len(each.ids) for each in group)
        if batch and held + more > min(KEYS_BATCH, base.room.forward_tokens):
            yield batch
            batch, held = [], 0
        batch.append(group)
        held += more
    if batch:
        yield batch


def _backward(base: BaseModel, weights: Weights, objective: Objective, batch: Batch) -> _Recorder:
    recorder = _Recorder(weights)
    with torch.enable_grad(), intercepting(recorder):
        scores = score_answers(answer_logits(base, batch), batch.answer_A)
        objective(batch, scores).sum().backward()  # type: ignore[no-untyped-call]
    return recorder


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

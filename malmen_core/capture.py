"""Keys and output gradients of the edited modules at the edited tokens, on the base (paper, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from malmen_core.base import BaseModel
from malmen_core.batches import DEFAULT_BATCH_TOKENS, Batch, answer_logits, batches, score_answers
from malmen_core.overlay import EditedModule, intercepting
from malmen_core.tokens import Encoded, KeyPosition


@dataclass(frozen=True)
class Captured:
    """What one module saw at the edited tokens, in the sequences' order.

    Attributes:
        keys_TU: its inputs; float32 (float64 for a float64 base), on the CPU.
        gradients_TV: gradient of the answers' total negative log-likelihood with respect to its outputs;
            likewise.
    """

    keys_TU: Tensor
    gradients_TV: Tensor


class _Recorder:
    """Keeps inputs and outputs of edited modules; outputs keep their gradient."""

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    def __call__(self, module: EditedModule, inputs: Tensor) -> Tensor:
        output = module.base(inputs)
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
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> tuple[dict[str, Captured], Tensor]:
    """Keys and gradients of every edited module at every edited token.

    The loss is the sum of the answers' token losses, so a sequence's gradient does not depend on its batch.

    Args:
        base: the base model, unedited.
        sequences: prompts with answers.
        where: at which tokens, see `Encoded.key_positions`.
        batch_tokens: padded tokens of a language-model batch; changes speed and memory, not the result.

    Returns:
        Captured rows by module, and for each row the index of its sequence (int64, T).
    """
    positions = [sequence.key_positions(where) for sequence in sequences]
    sequence_T = torch.tensor([i for i, p in enumerate(positions) for _ in p], dtype=torch.int64)
    first_row = [0, *torch.tensor([len(p) for p in positions]).cumsum(0).tolist()]
    keys = {name: torch.empty(0) for name in base.modules}
    gradients = {name: torch.empty(0) for name in base.modules}
    for batch in batches(base, sequences, batch_tokens=batch_tokens):
        recorder = _backward(base, batch)
        rows, row_of, column_of = _edited_tokens(batch, positions, first_row)
        for name in base.modules:
            gradient = recorder.outputs[name].grad
            assert gradient is not None
            if keys[name].numel() == 0:
                keys[name] = _buffer(len(sequence_T), recorder.inputs[name])
                gradients[name] = _buffer(len(sequence_T), gradient)
            keys[name][rows] = recorder.inputs[name][row_of, column_of].to(keys[name])
            gradients[name][rows] = gradient[row_of, column_of].to(gradients[name])
    return {name: Captured(keys[name], gradients[name]) for name in base.modules}, sequence_T


class _AllSeen(Exception):
    """Ends a forward pass once every edited module has been given its input."""


def keys_everywhere(base: BaseModel, ids_BL: Tensor, mask_BL: Tensor) -> dict[str, Tensor]:
    """Keys at every token of some padded sequences, by module: N × U, float32 at least.

    The forward pass ends at the last edited module: what lies above is not computed.
    """
    real = mask_BL.bool()
    found: dict[str, Tensor] = {}

    def record(module: EditedModule, inputs: Tensor) -> Tensor:
        found[module.name] = inputs[real].to(torch.promote_types(inputs.dtype, torch.float32))
        if len(found) == len(base.modules):
            raise _AllSeen
        return module.base(inputs)

    positions = (mask_BL.cumsum(1) - 1).clamp_min(0)
    with torch.inference_mode(), intercepting(record), suppress(_AllSeen):
        base.model(input_ids=ids_BL, attention_mask=mask_BL, position_ids=positions, use_cache=False)
    return found


def _backward(base: BaseModel, batch: Batch) -> _Recorder:
    recorder = _Recorder()
    with torch.enable_grad(), intercepting(recorder):
        score_answers(answer_logits(base, batch), batch.answer_A).nll_A.sum().backward()  # type: ignore[no-untyped-call]
    return recorder


def _edited_tokens(
    batch: Batch, positions: Sequence[Sequence[int]], first_row: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    rows, row_of, column_of = [], [], []
    for row, member in enumerate(batch.members):
        for number, position in enumerate(positions[member]):
            rows.append(first_row[member] + number)
            row_of.append(row)
            column_of.append(batch.column(row, position))
    return rows, row_of, column_of


def _buffer(rows: int, like: Tensor) -> Tensor:
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.zeros(rows, like.shape[-1], dtype=dtype)

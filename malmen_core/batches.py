"""Batches of encoded sequences, and the language model's logits at answer positions only.

Sequences are padded on the left, as generation needs them. Real tokens keep the positions that they
would have alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from malmen_core.base import BaseModel
from malmen_core.tokens import Encoded

DEFAULT_BATCH_TOKENS = 384


@dataclass(frozen=True)
class Batch:
    """Some sequences, padded on the left.

    Attributes:
        members: indices of the sequences in the list that was batched.
        ids_BL: token ids; int64.
        mask_BL: 1 at real tokens; int64.
        answer_A: token ids of all answers, one after the other; int64.
        row_A: which row of the batch each answer token belongs to.
        column_A: index in L of the position that predicts each answer token.
    """

    members: tuple[int, ...]
    ids_BL: Tensor
    mask_BL: Tensor
    answer_A: Tensor
    row_A: Tensor
    column_A: Tensor

    @property
    def positions_BL(self) -> Tensor:
        """Position of each token in its own sequence; 0 at padding."""
        return (self.mask_BL.cumsum(1) - 1).clamp_min(0)

    def column(self, row: int, position: int) -> int:
        """Index in L of a sequence's own position."""
        return int(self.ids_BL.shape[1] - int(self.mask_BL[row].sum()) + position)


def collate(base: BaseModel, sequences: Sequence[Encoded], members: Sequence[int]) -> Batch:
    """Pad the sequences with these indices to one batch on the base's device."""
    chosen = [sequences[i] for i in members]
    ids_BL, mask_BL = left_pad(base, [sequence.ids for sequence in chosen])
    width = ids_BL.shape[1]
    row: list[int] = []
    column: list[int] = []
    answer: list[int] = []
    for i, sequence in enumerate(chosen):
        shift = width - len(sequence.ids)
        answer += sequence.answer
        row += [i] * len(sequence.answer)
        column += range(shift + sequence.answer_start - 1, width - 1)
    flat = [torch.tensor(values, dtype=torch.int64, device=base.device) for values in (answer, row, column)]
    return Batch(tuple(members), ids_BL, mask_BL, *flat)


def left_pad(base: BaseModel, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of sequences padded on the left: B × L each, on the base's device."""
    width = max(len(s) for s in sequences)
    ids = torch.full((len(sequences), width), base.pad_id)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        if sequence:
            ids[row, -len(sequence) :] = torch.tensor(list(sequence))
            mask[row, -len(sequence) :] = 1
    return ids.to(base.device), mask.to(base.device)


def batches(
    base: BaseModel,
    sequences: Sequence[Encoded],
    *,
    members: Sequence[int] | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Iterator[Batch]:
    """Group sequences of like length, each batch within a budget of tokens (at least one sequence).

    Args:
        base: whose padding token and device are used.
        sequences: all sequences.
        members: indices of those wanted; None for all.
        batch_tokens: padded tokens of a batch at most.
    """
    order = sorted(
        range(len(sequences)) if members is None else members, key=lambda i: (len(sequences[i].ids), i)
    )
    group: list[int] = []
    for i in order:
        if group and len(sequences[i].ids) * (len(group) + 1) > batch_tokens:
            yield collate(base, sequences, group)
            group = []
        group.append(i)
    if group:
        yield collate(base, sequences, group)


def answer_logits(base: BaseModel, batch: Batch) -> Tensor:
    """Logits at the positions that predict answer tokens: A × X, float32 (float64 on a float64 base)."""
    with base.output.reading(batch.row_A, batch.column_A):
        output = base.model(
            input_ids=batch.ids_BL,
            attention_mask=batch.mask_BL,
            position_ids=batch.positions_BL,
            use_cache=False,
        )
    logits: Tensor = output.logits[0]
    return logits if logits.dtype == torch.float64 else logits.float()


@dataclass(frozen=True)
class AnswerScores:
    """How the model takes to each answer token of one sequence under teacher forcing.

    Attributes:
        nll_A: negative log-likelihood of each token, in nats.
        margin_A: log-odds of the token over the best other one; positive where it is the argmax.
        argmax_A: the model's own choice at each position.
    """

    nll_A: Tensor
    margin_A: Tensor
    argmax_A: Tensor


def score_answers(logits_AX: Tensor, answer_A: Tensor) -> AnswerScores:
    """Score answer tokens against logits; gradients flow through `nll_A`."""
    own_A = logits_AX.gather(1, answer_A[:, None])[:, 0]
    best_A2, token_A2 = logits_AX.detach().topk(2)
    rival_A = torch.where(token_A2[:, 0] == answer_A, best_A2[:, 1], best_A2[:, 0])
    return AnswerScores(logits_AX.logsumexp(1) - own_A, own_A.detach() - rival_A, token_A2[:, 0])


def teacher_forced(
    base: BaseModel, sequences: Sequence[Encoded], batch_tokens: int = DEFAULT_BATCH_TOKENS
) -> list[AnswerScores]:
    """Score every answer, without gradients, under the active overlay; in the order given, on the CPU."""
    scores: list[AnswerScores | None] = [None] * len(sequences)
    with torch.inference_mode():
        for batch in batches(base, sequences, batch_tokens=batch_tokens):
            all_A = score_answers(answer_logits(base, batch), batch.answer_A)
            counts = [len(sequences[i].answer) for i in batch.members]
            parts = zip(
                torch.split(all_A.nll_A.cpu(), counts),
                torch.split(all_A.margin_A.cpu(), counts),
                torch.split(all_A.argmax_A.cpu(), counts),
                strict=True,
            )
            for member, part in zip(batch.members, parts, strict=True):
                scores[member] = AnswerScores(*part)
    return [score for score in scores if score is not None]

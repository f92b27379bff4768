"""Batches of encoded sequences, and how well a model answers under teacher forcing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from malmen_core.models.base import BaseModel
from malmen_core.models.lanes import side_by_side
from malmen_core.models.tasks.base import Batch
from malmen_core.models.tokenization import Encoded, longest


def batches(
    base: BaseModel,
    sequences: Sequence[Encoded],
    *,
    members: Sequence[int] | None = None,
    batch_tokens: int | None = None,
    learning: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Group sequences of like length, each batch within a budget of tokens (at least one sequence).

    Longer ones go into a batch of their own where padding the shorter ones would take longer than a pass.

    Args:
        base: whose padding token and device are used.
        sequences: all sequences.
        members: indices of those wanted; None for all.
        batch_tokens: padded tokens of a batch at most; None for as many as there is room for.
        learning: how many of each sequence's last tokens a gradient goes through, which takes as long again;
            None for all.
    """
    limit = base.room.tokens if batch_tokens is None else batch_tokens
    lengths = [len(sequence.ids) for sequence in sequences]
    learning = lengths if learning is None else learning
    group: list[int] = []
    width, depth = 0, 0
    numbers = range(len(sequences)) if members is None else members
    for i in sorted(numbers, key=lambda i: (learning[i], lengths[i], i)):
        wider, deeper, count = max(width, lengths[i]), max(depth, learning[i]), len(group)
        apart = count * (width + depth) + lengths[i] + learning[i] + 2 * base.room.pass_tokens
        if group and (wider * (count + 1) > limit or (wider + deeper) * (count + 1) > apart):
            yield base.task.collate(base, sequences, group)
            group, wider, deeper = [], lengths[i], learning[i]
        group.append(i)
        width, depth = wider, deeper
    if group:
        yield base.task.collate(base, sequences, group)


def answer_logits(base: BaseModel, batch: Batch) -> Tensor:
    """Logits at the positions that predict answer tokens: A × X, float32 (float64 on a float64 base)."""
    logits = base.task.answer_logits(base, batch)
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


def smallest_margins(batch: Batch, margin_A: Tensor) -> Tensor:
    """Smallest margin of each sequence's answer tokens: B, in the batch's order."""
    start = torch.full((len(batch.members),), torch.inf, device=margin_A.device, dtype=margin_A.dtype)
    return start.scatter_reduce(0, batch.row_A, margin_A, "amin")


def teacher_forced(
    base: BaseModel, sequences: Sequence[Encoded], batch_tokens: int | None = None
) -> list[AnswerScores]:
    """Score every answer, without gradients, under the active overlay; in the order given, on the CPU."""
    return base.room.within(batch_tokens, longest(sequences), partial(_teacher_forced, base, sequences))


def _teacher_forced(base: BaseModel, sequences: Sequence[Encoded], batch_tokens: int) -> list[AnswerScores]:
    scores: dict[int, AnswerScores] = {}

    def run(batch: Batch) -> None:
        with torch.inference_mode():
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

    side_by_side(base, run, list(batches(base, sequences, batch_tokens=batch_tokens))[::-1])
    return [scores[i] for i in range(len(sequences))]

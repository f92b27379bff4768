"""Batches of encoded sequences, and how well a model answers under teacher forcing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from malmen_core.models.base import BaseModel
from malmen_core.models.tasks.base import Batch
from malmen_core.models.tokenization import END, Encoded, longest

PADDED = 1.3
"""A batch ends where its longest sequence would be so many times as long as its shortest."""
SURE = 1e-6
"""Of a token that has all but so little of the probability, the others are not told apart."""


def batches(
    base: BaseModel,
    sequences: Sequence[Encoded],
    *,
    members: Sequence[int] | None = None,
    batch_tokens: int | None = None,
) -> Iterator[Batch]:
    """Group sequences of like length, each batch within a budget of tokens (at least one sequence).

    Args:
        base: whose padding token and device are used.
        sequences: all sequences.
        members: indices of those wanted; None for all.
        batch_tokens: padded tokens of a batch at most; None for as many as there is room for.
    """
    limit = base.memory.tokens if batch_tokens is None else batch_tokens
    lengths = [len(sequence.ids) for sequence in sequences]
    numbers = range(len(sequences)) if members is None else members
    group: list[int] = []
    for i in sorted(numbers, key=lambda i: (lengths[i], i)):
        if group and (lengths[i] * (len(group) + 1) > limit or lengths[i] > PADDED * lengths[group[0]] + 2):
            yield base.task.collate(sequences, group, base.pad_id).to(base.device)
            group = []
        group.append(i)
    if group:
        yield base.task.collate(sequences, group, base.pad_id).to(base.device)


_MIXED: ContextVar[bool] = ContextVar("malmen_core_mixed", default=False)


@contextmanager
def mixed_precision(mixed: bool) -> Iterator[None]:
    """For this thread's `answer_logits`, multiply in bfloat16 (or not), and keep sums and weights as they are."""
    token = _MIXED.set(mixed)
    try:
        yield
    finally:
        _MIXED.reset(token)


def answer_logits(base: BaseModel, sequences: Sequence[Encoded], batch: Batch) -> Tensor:
    """Logits at the positions that predict answer tokens: A × X, float32 (float64 on a float64 base).

    What the layers below the first edited one give for a sequence is kept, and not computed again.
    """
    texts = [sequences[i].ids[: sequences[i].read] for i in batch.members]
    autocast = torch.autocast(base.device.type, torch.bfloat16, enabled=_MIXED.get())
    with base.lower_layers.running(texts, max(map(len, texts))), autocast:
        logits = base.task.answer_logits(base.model, batch)
    return logits if logits.dtype == torch.float64 else logits.float()


@dataclass(frozen=True)
class AnswerScores:
    """How the model takes to each answer token of some sequences under teacher forcing.

    Attributes:
        nll_A: negative log-likelihood of each token, in nats; where a word must end (`END`), of its ending.
        margin_A: log-odds of the token over the best other one; positive where it is the argmax. Where a word
            must end: of the best token that does not go on in it over the best that does.
        argmax_A: the model's own choice at each position; `END` where a word ends as it must.
        closed: of one sequence: whether the last of these is its end, and no token of the answer.
    """

    nll_A: Tensor
    margin_A: Tensor
    argmax_A: Tensor
    closed: bool = False


def score_answers(logits_AX: Tensor, answer_A: Tensor, continuing_X: Tensor | None) -> AnswerScores:
    """Score answer tokens against logits; gradients flow through `nll_A`.

    Args:
        logits_AX: at the positions that predict them.
        answer_A: token ids; `END` where a word must end.
        continuing_X: which tokens go on inside a word; None if no answer has an end.
    """
    end_A = answer_A == END
    own_A = logits_AX.gather(1, answer_A.clamp_min(0)[:, None])[:, 0]
    nll_A = logits_AX.logsumexp(1) - own_A
    best_A2, token_A2 = logits_AX.detach().topk(2)
    rival_A = torch.where(token_A2[:, 0] == answer_A, best_A2[:, 1], best_A2[:, 0])
    margin_A, argmax_A = own_A.detach() - rival_A, token_A2[:, 0]
    if continuing_X is None or not bool(end_A.any()):
        return AnswerScores(nll_A, margin_A, argmax_A)
    ends_EX = logits_AX[end_A]
    on_E = (torch.logsumexp(ends_EX[:, continuing_X], 1) - ends_EX.logsumexp(1)).exp()
    ending_E = -torch.log1p(-on_E.clamp_max(1 - SURE))
    known_EX = ends_EX.detach()
    ahead_E = known_EX[:, ~continuing_X].amax(1) - known_EX[:, continuing_X].amax(1)
    nll_A = nll_A.masked_scatter(end_A, ending_E)
    margin_A = margin_A.masked_scatter(end_A, ahead_E)
    argmax_A = torch.where(end_A & ~continuing_X[argmax_A], END, argmax_A)
    return AnswerScores(nll_A, margin_A, argmax_A)


def sum_by_sequence(batch: Batch, values_A: Tensor) -> Tensor:
    """Sum over each sequence's answer tokens: B, in the batch's order."""
    return values_A.new_zeros(len(batch.members)).index_add(0, batch.row_A, values_A)


def smallest_by_sequence(batch: Batch, values_A: Tensor) -> Tensor:
    """Smallest value of each sequence's answer tokens: B, in the batch's order."""
    start = values_A.new_full((len(batch.members),), torch.inf)
    return start.scatter_reduce(0, batch.row_A, values_A, "amin")


def teacher_forced(
    base: BaseModel, sequences: Sequence[Encoded], batch_tokens: int | None = None
) -> list[AnswerScores]:
    """Score every answer, without gradients, under the active overlay; in the order given, on the CPU."""

    def score(tokens: int) -> list[AnswerScores]:
        scores: dict[int, AnswerScores] = {}
        for batch in batches(base, sequences, batch_tokens=tokens):
            with torch.inference_mode():
                logits_AX = answer_logits(base, sequences, batch)
                all_A = score_answers(logits_AX, batch.answer_A, base.continuing_X)
            counts = torch.bincount(batch.row_A, minlength=len(batch.members)).tolist()
            parts = (torch.split(t.cpu(), counts) for t in (all_A.nll_A, all_A.margin_A, all_A.argmax_A))
            for member, nll_A, margin_A, argmax_A in zip(batch.members, *parts, strict=True):
                scores[member] = AnswerScores(nll_A, margin_A, argmax_A, sequences[member].closed)
        return [scores[i] for i in range(len(sequences))]

    return base.memory.run(batch_tokens, longest(sequences), score)

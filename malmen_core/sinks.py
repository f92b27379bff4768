"""Attention sinks: tokens that say nothing of the text they stand in, and that no edit can use.

Models rest their attention on some tokens: a text's first one above all, but also, for example, the last
piece of a name (Xiao et al. 2024, *Efficient streaming language models with attention sinks*). Their keys
are alike in every text: what is edited at one is edited at all of them, so the preservation prior holds them
still, and facts pushed in there cost all other texts dearly. A subject that ends in one is edited at the next
token that is none, which reads the subject too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from malmen_core.anchors import ANCHOR_BATCH, within_tokens
from malmen_core.base import BaseModel
from malmen_core.capture import keys_everywhere
from malmen_core.editor import Editor
from malmen_core.tokens import Encoded

LEAST_GAIN = 0.5
"""What a row on its own must get of the value that it asks for, against the prior."""


def off_sinks(base: BaseModel, editor: Editor, sequences: Sequence[Encoded]) -> tuple[Encoded, ...]:
    """Sequences whose subject is located where it can be edited; those without such a token as they were."""
    if editor.plan.where != "subject" or editor.plan.prior_weight == 0:
        return tuple(sequences)
    moved = list(sequences)
    asked = [i for i, each in enumerate(sequences) if each.subject_last is not None]
    groups = [[list(sequences[i].ids)] for i in asked]
    first = 0
    for batch in within_tokens(groups, min(ANCHOR_BATCH, base.draft.room.forward_tokens)):
        chosen = asked[first : first + len(batch)]
        gains = _gains(base, editor, [sequences[i] for i in chosen])
        for i, gain_L in zip(chosen, gains, strict=True):
            moved[i] = _off_sink(sequences[i], gain_L)
        first += len(batch)
    return tuple(moved)


def _off_sink(sequence: Encoded, gain_L: Tensor) -> Encoded:
    start = sequence.key_positions("subject")[0]
    free = (gain_L[start : sequence.answer_start] >= LEAST_GAIN).nonzero()[:, 0].tolist()
    return replace(sequence, subject_last=start + free[0]) if free else sequence


def _gains(base: BaseModel, editor: Editor, sequences: Sequence[Encoded]) -> tuple[Tensor, ...]:
    """``k M⁻¹k' / (1 + k M⁻¹k')`` of each token, weighted as a refined row: the least of all modules."""
    lengths = [len(each.ids) for each in sequences]
    gain_N = torch.ones(sum(lengths), dtype=torch.float64)
    for name, keys_NU in keys_everywhere(base.draft, sequences).items():
        read_N = keys_NU.any(1).cpu()
        weighted_NU = editor.plan.edited_weight * keys_NU.cpu()[read_N].double()
        reach_N = (weighted_NU * editor.regularisers[name].solve(weighted_NU.T).T).sum(1)
        gain_N[read_N] = torch.minimum(gain_N[read_N], reach_N / (1 + reach_N))
    return torch.split(gain_N, lengths)

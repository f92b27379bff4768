"""Attention sinks: tokens that say nothing of the text they stand in, and that no edit can use.

Models rest their attention on some tokens: a text's first one above all, but also, for example, the last
piece of a name (Xiao et al. 2024, *Efficient streaming language models with attention sinks*). Their keys
are alike in every text: what is edited at one is edited at all of them, so the preservation prior holds them
still, and facts pushed in there cost all other texts dearly. A subject that ends in one is edited at the next
token that is none, which reads the subject too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from malmen_core.base import BaseModel
from malmen_core.capture import keys_by_group
from malmen_core.editor import Editor
from malmen_core.tokens import Encoded

LEAST_REACH = 0.04
"""``k M⁻¹k'`` of a key that is no sink: what its row weighs in the normal equation against the prior."""


def off_sinks(base: BaseModel, editor: Editor, sequences: Sequence[Encoded]) -> tuple[Encoded, ...]:
    """Sequences whose subject is located where it can be edited; those without such a token as they were."""
    if editor.plan.where != "subject" or editor.plan.prior_weight == 0:
        return tuple(sequences)
    moved = list(sequences)
    asked = [i for i, each in enumerate(sequences) if each.subject_last is not None]
    found = keys_by_group(base.draft, [[sequences[i]] for i in asked])
    for i, keys in zip(asked, found, strict=True):
        moved[i] = _off_sink(editor, sequences[i], keys)
    return tuple(moved)


def _off_sink(editor: Editor, sequence: Encoded, keys: Mapping[str, Tensor]) -> Encoded:
    """The sequence, located at the first token from its subject's last on that no edited module holds."""
    start, end = sequence.key_positions("subject")[0], sequence.answer_start
    free_L = torch.ones(end - start, dtype=torch.bool)
    for name, keys_LU in keys.items():
        asked_LU = keys_LU[start:end].cpu().double()
        reach_L = (asked_LU * editor.regularisers[name].solve(asked_LU.T).T).sum(1)
        free_L &= (reach_L >= LEAST_REACH) | ~asked_LU.any(1)  # a stack that does not read a token is zero
    free = free_L.nonzero()[:, 0].tolist()
    return replace(sequence, subject_last=start + free[0]) if free else sequence

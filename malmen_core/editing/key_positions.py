"""Where facts are edited: at the subject's last token, unless that is an attention sink.

Models rest their attention on some tokens: a text's first one above all, but also, for example, the last
piece of a name (Xiao et al. 2024, *Efficient streaming language models with attention sinks*). Their keys are
alike in every text, so an edit at one is an edit at all of them. A key's leverage ``k M⁻¹k'`` tells: where it
is a small part of what is usual, the fact is edited at the next token that is no sink, which reads the subject
too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from malmen_core.editing.capture import keys_at
from malmen_core.editing.ridge import Regulariser
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded


def off_sinks(
    base: BaseModel, regularisers: Mapping[str, Regulariser], sequences: Sequence[Encoded], least: float
) -> list[Encoded]:
    """Sequences whose subject is located where it can be edited; those without such a token as they were.

    Args:
        base: the immutable base.
        regularisers: M by module, without preserved keys.
        sequences: prompts with answers.
        least: leverage of a key that is no sink.
    """
    moved = list(sequences)
    asked = [i for i, each in enumerate(sequences) if each.subject_last is not None]
    spans = [range(sequences[i].key_positions("subject")[0], sequences[i].answer_start) for i in asked]
    keys = keys_at(base, [sequences[i] for i in asked], spans)
    free = [
        (regularisers[name].leverage(keys_NU) >= least) | ~keys_NU.any(1)  # of another stack
        for name, keys_NU in keys.items()
    ]
    free_N = torch.stack(free).all(0).cpu()
    for i, span, free_L in zip(asked, spans, torch.split(free_N, [len(s) for s in spans]), strict=True):
        if bool(free_L.any()):
            moved[i] = replace(sequences[i], subject_last=span.start + int(free_L.int().argmax()))
    return moved

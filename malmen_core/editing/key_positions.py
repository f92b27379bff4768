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

from malmen_core.editing.capture import keys_by_group
from malmen_core.editing.editor import Editor
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded

LEAST_REACH = 0.04
"""``k M⁻¹k'`` of a key that is no sink: what its row weighs in the normal equation against the prior."""
AT_ONCE = 64
"""Sequences whose keys are weighed together."""


def off_sinks(base: BaseModel, editor: Editor, sequences: Sequence[Encoded]) -> tuple[Encoded, ...]:
    """Sequences whose subject is located where it can be edited; those without such a token as they were."""
    if editor.plan.where != "subject" or editor.plan.prior_weight == 0:
        return tuple(sequences)
    moved = list(sequences)
    asked = [i for i, each in enumerate(sequences) if each.subject_last is not None]
    for first in range(0, len(asked), AT_ONCE):
        some = asked[first : first + AT_ONCE]
        spans = [slice(sequences[i].key_positions("subject")[0], sequences[i].answer_start) for i in some]
        found = keys_by_group(base.draft, [[sequences[i]] for i in some])
        rows = [{n: keys[n][span] for n in keys} for keys, span in zip(found, spans, strict=True)]
        free_N = _free(editor, {name: torch.cat([each[name] for each in rows]) for name in base.modules})
        counts = [span.stop - span.start for span in spans]
        for i, span, free_L in zip(some, spans, torch.split(free_N, counts), strict=True):
            if bool(free_L.any()):
                moved[i] = replace(sequences[i], subject_last=span.start + int(free_L.int().argmax()))
    return tuple(moved)


def _free(editor: Editor, keys: Mapping[str, Tensor]) -> Tensor:
    """Which tokens no edited module holds, by their keys: N."""
    free = []
    for name, keys_NU in keys.items():
        asked_NU = keys_NU.cpu().double()
        reach_N = (asked_NU * editor.regularisers[name].solve(asked_NU.T).T).sum(1)
        free.append((reach_N >= LEAST_REACH) | ~asked_NU.any(1))  # a stack that does not read it is zero
    return torch.stack(free).all(0)

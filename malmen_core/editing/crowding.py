"""Crowding: how near a fact's key is to those of its neighbours, before anything is edited.

A change at key ``k`` with the preservation prior `M` alone arrives at another key ``n`` in the proportion
``n M⁻¹k' / k M⁻¹k'``. Where it is large ("The capital of Malawi" beside that of Zambia), what is said of the
one is soon said of the other, and facts are pushed less far; where it is small, pushing costs little.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from malmen_core.editing.capture import Captured
from malmen_core.editing.preserved import Anchors
from malmen_core.editing.ridge import Regulariser


def crowding(
    captured: Mapping[str, Captured],
    fact_T: Tensor,
    facts: int,
    anchors: Anchors,
    regularisers: Mapping[str, Regulariser],
) -> Tensor:
    """What arrives at the names of each fact's neighbours, relative to what is changed at its own.

    Args:
        captured: the facts' keys by module.
        fact_T: the fact of each key; of a fact with several, the first counts.
        facts: how many there are.
        anchors: of the same facts.
        regularisers: M by module.

    Returns:
        Root mean square over a fact's neighbours and the modules of the stack that reads its first key: F,
        float64; 0 where no neighbours are known.
    """
    if len(anchors.fact_N) == 0:
        return torch.zeros(facts, dtype=torch.float64)
    first_F = torch.tensor([int((fact_T == fact).nonzero()[0]) for fact in range(facts)])
    total_F = torch.zeros(facts, dtype=torch.float64)
    seen_F = torch.zeros_like(total_F)
    for name, named_NU in anchors.named.items():
        keys_FU = captured[name].keys_TU[first_F].double()
        towards_UF = regularisers[name].solve(keys_FU.T)
        own_F = (keys_FU.T * towards_UF).sum(0)  # zero for a key of another stack
        towards_UF /= torch.where(own_F > 0, own_F, 1.0)
        share_N = (named_NU.double() * towards_UF.T[anchors.fact_N]).sum(1)
        total_F.index_add_(0, anchors.fact_N, share_N.square())
        seen_F += torch.bincount(anchors.fact_N, minlength=facts) * (own_F > 0)
    return (total_F / seen_F.clamp_min(1)).sqrt()

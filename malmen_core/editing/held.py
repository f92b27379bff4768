"""Locality prompts that are held: an edit is made so that they keep their answers, not only measured by them.

Where a held prompt and its answer are read, the edited modules must give what they give on the base. So their
keys join the fact's rows with a value difference of zero, as those of `anchors` do, with ten times their
weight: anchors are guesses at a neighbourhood and may yield, what was asked for by name should not. More
would be felt by other facts that are edited near there. Tokens up to the fact's own subject are left out,
since what is edited is read there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from malmen_core.editing.capture import keys_by_group
from malmen_core.editing.preserved import Anchors, compress
from malmen_core.editing.subjects import subject_of
from malmen_core.facts import Fact
from malmen_core.generation.greedy import probe_answers
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded, check_length, encode_prompts, subject_last_token

WEIGHT = 10.0
"""Factor on each row, as on an anchor's: once facts are refined, `EditPlan.anchor_weight` goes on both."""
RANK = 16
"""Rows that a fact's held prompts are compressed to, in each module."""


def held_prompts(base: BaseModel, facts: Sequence[Fact], first: int = 0) -> Anchors:
    """Rows of the locality prompts that facts ask to be held (`Probe.hold`); no neighbours are named.

    Args:
        base: the base model, unedited; keys are its draft's.
        facts: to be edited together.
        first: the number of the first of them in its set.

    Raises:
        PromptTooLong: a held prompt exceeds the context.
    """
    asked = [(i, j) for i, fact in enumerate(facts) for j, probe in enumerate(fact.locality) if probe.hold]
    probes = [facts[i].locality[j] for i, j in asked]
    read = encode_prompts(base.tokenizer, [probe.prompt for probe in probes])
    for (i, j), ids in zip(asked, read, strict=True):
        field = f"/facts/{first + i}/locality/{j}/prompt"
        check_length(Encoded(tuple(ids), len(ids)), base.info.context_length, field)
    texts: dict[int, list[Encoded]] = {}
    for (i, _), probe, text in zip(asked, probes, probe_answers(base, probes), strict=True):
        last = subject_last_token(base.tokenizer, probe.prompt, subject_of(facts[i]).text)
        texts.setdefault(i, []).append(replace(text, subject_last=last))
    none = {name: torch.zeros(0, module.shape[0]) for name, module in base.modules.items()}
    rows = {name: [each] for name, each in none.items()}
    for own, keys in zip(texts.values(), keys_by_group(base.draft, list(texts.values())), strict=True):
        behind_N = torch.cat([torch.arange(len(text.ids)) > (text.subject_last or 0) for text in own])
        for name, keys_NU in keys.items():
            rows[name].append(WEIGHT * compress(keys_NU[behind_N.to(keys_NU.device)], RANK).cpu())
    fact_T = torch.tensor([i for i in texts for _ in range(RANK)], dtype=torch.int64)
    return Anchors({name: torch.cat(parts) for name, parts in rows.items()}, fact_T, none, fact_T[:0])

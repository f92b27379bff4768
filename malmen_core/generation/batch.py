"""Sequences that are written together: one forward pass gives each its next logits, by its version's weights.

They may join and leave between tokens. Their keys and values lie in one cache, each sequence at its right
end; padding on the left is masked, and positions are those that each sequence would have alone. A sequence by
itself is run as if there were no batch at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from malmen_core.generation.logprobs import TokenScore, score
from malmen_core.models.base import BaseModel
from malmen_core.models.overlay import ByRow, Version, intercepting
from malmen_core.models.tasks.base import Steps, TextTask, pad


class Sequences:
    """Some sequences with one cache.

    Attributes:
        versions: whose weights each is run with.
        lengths: tokens of each that were read.
        logits_BX: what each makes of the next token.
        scores: what each makes of its own prompt; None where that is not wanted.
    """

    def __init__(
        self,
        base: BaseModel,
        task: TextTask,
        versions: Sequence[Version],
        prompts: Sequence[list[int]],
        scored: Sequence[int | None] = (),
    ) -> None:
        """Read the prompts (token ids); several at once only if `BaseModel.shares_cache`.

        Args:
            base: the immutable base.
            task: of the model.
            versions: whose weights each prompt is read with.
            prompts: their token ids.
            scored: for prompts that are to be scored, how many of the most probable tokens are named.
        """
        self._base = base
        self._scored = list(scored)
        self.scores: list[list[TokenScore] | None] = [None] * len(versions)
        self._cache: Any = None
        self.versions = list(versions)
        self.lengths = [0] * len(versions)
        with torch.inference_mode(), intercepting(ByRow(self.versions)):
            begun = [task.begin(base.model, ids) for ids in prompts]
        self._steps: Steps = begun[0]
        self.logits_BX = self._read([list(steps.first) for steps in begun])

    def advance(self, tokens: Sequence[int]) -> None:
        """Read one more token of each."""
        self.logits_BX = self._read([[token] for token in tokens])

    def join(self, others: Sequences) -> None:
        """Take other sequences in, behind these; only if `BaseModel.shares_cache`."""
        width = max(*self.lengths, *others.lengths)
        for own, other in zip(self._cache.layers, others._cache.layers, strict=True):
            own.keys = torch.cat([_widened(own.keys, width), _widened(other.keys, width)])
            own.values = torch.cat([_widened(own.values, width), _widened(other.values, width)])
        self.versions += others.versions
        self.lengths += others.lengths
        self.logits_BX = torch.cat([self.logits_BX, others.logits_BX])

    def keep(self, rows: Sequence[int]) -> None:
        """Let all leave but these, and padding that nobody needs any more with them; only several at once."""
        self.versions = [self.versions[row] for row in rows]
        self.lengths = [self.lengths[row] for row in rows]
        self.logits_BX = self.logits_BX[list(rows)]
        for layer in self._cache.layers:
            layer.keys = layer.keys[list(rows), :, -max(self.lengths) :]
            layer.values = layer.values[list(rows), :, -max(self.lengths) :]

    def _read(self, tokens: Sequence[list[int]]) -> Tensor:
        self.lengths = [length + len(ids) for length, ids in zip(self.lengths, tokens, strict=True)]
        ids_BL, _ = pad(tokens, self._base.pad_id, left=True)
        inputs = {self._steps.argument: ids_BL.to(self._base.device), **self._steps.fixed}
        if any(top is not None for top in self._scored):
            inputs.pop("logits_to_keep", None)  # those of all positions are needed
        if len(set(self.lengths)) > 1:
            inputs |= self._padding(ids_BL.shape[1])
        with torch.inference_mode(), intercepting(ByRow(self.versions)):
            output = self._base.model(**inputs, past_key_values=self._cache, use_cache=True)
        self._cache = output.past_key_values
        for row, top in enumerate(self._scored):
            if top is not None:
                own, logits_LX = tokens[row], output.logits[row, -len(tokens[row]) :]
                self.scores[row] = [TokenScore(own[0], None), *score(logits_LX[:-1], own[1:], top)]
        self._scored = []
        logits_BX: Tensor = output.logits[:, -1].float()
        return logits_BX

    def _padding(self, width: int) -> dict[str, Tensor]:
        """Mask of all columns so far, and positions of the last `width`."""
        length_B1 = torch.tensor(self.lengths)[:, None]
        columns = max(self.lengths)
        mask_BL = (torch.arange(columns) >= columns - length_B1).long()
        positions_BL = (mask_BL.cumsum(1) - 1).clamp_min(0)[:, -width:]
        return {
            "attention_mask": mask_BL.to(self._base.device),
            "position_ids": positions_BL.to(self._base.device),
        }


def _widened(cached: Tensor, width: int) -> Tensor:
    """Keys or values (B × heads × L × features) with L of `width`, padded on the left."""
    return functional.pad(cached, (0, 0, width - cached.shape[2], 0))

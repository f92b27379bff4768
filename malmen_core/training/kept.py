"""What meta-training needs of the base, computed once for each fact and kept on disk.

The base never changes, and the layers below the first edited one give the same under every edit. So of each
fact are kept: what enters the first edited layer for each of its sequences, its keys and gradients, and the
base's log-probabilities at its locality prompts. Facts are computed in chunks that depend on nothing but
their order, so a run that is resumed reads, or computes, the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from malmen_core.editing.capture import Captured, capture, edited_positions
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import answer_logits, batches
from malmen_core.models.overlay import EditedModule, intercepting
from malmen_core.models.tokenization import Encoded, KeyPosition, longest
from malmen_core.training.checkpoint import write_atomically
from malmen_core.training.meta_loss import (
    FactSequences,
    LossWeights,
    MetaBatch,
    assemble,
    base_log_probs,
    encode_facts,
)

CHUNK = 256
"""Facts that are computed together."""
Text = tuple[int, ...]


@dataclass(frozen=True)
class _Chunk:
    """Encoded facts, where each has its rows, and the file that holds them."""

    sequences: list[FactSequences]
    first_row: dict[str, list[int]]
    file: Any


class _Reached(Exception):
    """Ends a forward pass at the first edited module."""


class KeptFacts:
    """Prepares facts for steps of meta-training."""

    def __init__(
        self, base: BaseModel, facts: Sequence[Fact], where: KeyPosition, folder: Path, batch_tokens: int
    ) -> None:
        """Name the facts; nothing is computed before it is needed.

        Args:
            base: the immutable base.
            facts: all facts, in the order in which they are first needed.
            where: at which tokens modules are edited.
            folder: where results are kept; may hold those of the same facts.
            batch_tokens: padded tokens of a language-model batch with a backward pass.
        """
        self.base, self.facts, self.where, self.folder = base, facts, where, folder
        self.batch_tokens = batch_tokens
        self._chunks: dict[int, _Chunk] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def prepare(self, numbers: Sequence[int], weights: LossWeights) -> tuple[MetaBatch, Captured]:
        """The meta batch of some facts, and what they are edited with.

        The states of these facts' sequences at the first edited layer replace those that the base kept.

        Args:
            numbers: places in the list of facts.
            weights: of the meta loss's parts.

        Raises:
            PromptTooLong, FactError: a fact cannot be encoded.
            OutOfDeviceMemory: a sequence does not fit.
        """
        chunks = {number: self._chunk(number) for number in {place // CHUNK for place in numbers}}
        self.base.lower_layers.forget()
        parts = [self._read(chunks[place // CHUNK], place % CHUNK) for place in numbers]
        sequences = [chunks[place // CHUNK].sequences[place % CHUNK] for place in numbers]
        for states, texts in zip((part["states"] for part in parts), map(_texts, sequences), strict=True):
            if len(states):
                parts_LV = torch.split(states, [len(text) for text in texts])
                for text, state_LV in zip(texts, parts_LV, strict=True):
                    self.base.lower_layers.put(text, state_LV.to(self.base.device))
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if ":" in name}
        probes = [probe for each in sequences for probe in each.probes]
        before_AX = torch.cat([part["before"] for part in parts])
        before = torch.split(before_AX, [len(probe.answer) for probe in probes])
        place = self.base.device
        edits = [sequence for each in sequences for sequence in each.edits]
        owners = [i for i, s in enumerate(edits) for _ in edited_positions(self.base, s, self.where)]
        return assemble(sequences, weights, before), Captured(
            {name: joined[f"key:{name}"].to(place) for name in self.base.modules},
            {name: joined[f"gradient:{name}"].to(place) for name in self.base.modules},
            torch.tensor(owners, device=place),
            joined["goal:nll"].to(place),
            joined["goal:margin"].to(place),
        )

    def _chunk(self, number: int) -> _Chunk:
        if number not in self._chunks:
            sequences = encode_facts(self.base, self.facts[number * CHUNK : (number + 1) * CHUNK])
            path = self.folder / f"{number:05}.safetensors"
            if not path.exists():
                write_atomically(path, save(self._compute(sequences)))
            self._chunks[number] = _Chunk(sequences, self._rows(sequences), safe_open(path, "pt"))
        return self._chunks[number]

    def _rows(self, sequences: Sequence[FactSequences]) -> dict[str, list[int]]:
        """By kind, where each fact's rows begin, and the end."""
        tokens = [sum(map(len, _texts(each))) for each in sequences]
        rows = [
            sum(len(edited_positions(self.base, sequence, self.where)) for sequence in each.edits)
            for each in sequences
        ]
        answers = [sum(len(probe.answer) for probe in each.probes) for each in sequences]
        counts = {"states": tokens, "row": rows, "goal": [len(s.edits) for s in sequences], "before": answers}
        return {kind: list(accumulate(each, initial=0)) for kind, each in counts.items()}

    def _read(self, chunk: _Chunk, place: int) -> dict[str, Tensor]:
        found = {}
        for name in chunk.file.keys():  # noqa: SIM118 (no mapping)
            kind, part = name.partition(":")[0], chunk.file.get_slice(name)
            first = chunk.first_row["row" if kind in ("key", "gradient") else kind]
            empty = part.get_shape()[0] == 0
            found[name] = torch.zeros(0, 0) if empty else part[first[place] : first[place + 1]]
        return found

    def _compute(self, sequences: Sequence[FactSequences]) -> dict[str, Tensor]:
        base = self.base
        base.lower_layers.forget()
        edits = [sequence for each in sequences for sequence in each.edits]
        _run_lower(base, [*edits, *(s for each in sequences for s in each.judged)], self.batch_tokens)
        seen = capture(base, edits, self.where, batch_tokens=self.batch_tokens)
        states = base.lower_layers.states([text for each in sequences for text in _texts(each)])
        before = base_log_probs(base, [p for each in sequences for p in each.probes], self.batch_tokens)
        found = {
            "states": torch.cat(states) if states else torch.zeros(0, 0),
            "before": torch.cat(before) if before else torch.zeros(0, 0),
            "goal:nll": seen.nll_Q,
            "goal:margin": seen.margin_Q,
            **{f"key:{name}": keys_TU for name, keys_TU in seen.keys.items()},
            **{f"gradient:{name}": gradients_TV for name, gradients_TV in seen.gradients.items()},
        }
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def _texts(sequences: FactSequences) -> tuple[Text, ...]:
    """What the model reads of a fact's sequences, each once."""
    return tuple(dict.fromkeys(s.ids[: s.read] for s in (*sequences.edits, *sequences.judged)))


def _run_lower(base: BaseModel, sequences: Sequence[Encoded], batch_tokens: int) -> None:
    """Let the base keep what enters the first edited layer for some sequences."""
    if not base.lower_layers.usable:
        return
    once = list({sequence.ids[: sequence.read]: sequence for sequence in sequences}.values())

    def stop(_module: EditedModule, _inputs: Tensor) -> Tensor:
        raise _Reached

    def run(tokens: int) -> None:
        for batch in batches(base, once, batch_tokens=tokens):
            with torch.no_grad(), suppress(_Reached), intercepting(stop):
                answer_logits(base, once, batch)

    base.memory.run(batch_tokens, longest(once), run, forward=True)

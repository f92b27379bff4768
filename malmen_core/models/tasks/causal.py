"""Causal language models: the prompt is continued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from typing_extensions import override

from malmen_core.models.tasks.base import Batch, Reading, Steps, TextTask, answers_of, pad
from malmen_core.models.tokenization import Encoded, KeyPosition, encode, leave_open

if TYPE_CHECKING:
    from malmen_core.models.base import BaseModel

DECODER = "decoder"


def read_ahead(base: BaseModel, batch: Batch, columns: int) -> Batch:
    """What remains of a batch once its first columns are read, without gradients, into a cache.

    Only where sequences can share one (`BaseModel.shares_cache`).
    """
    ahead = {name: value[:, :columns] for name, value in batch.inputs.items()}
    behind = {name: value[:, columns:] for name, value in batch.inputs.items()}
    with torch.no_grad():
        read = base.model.base_model(**ahead, use_cache=True).past_key_values
    inputs = {**behind, "attention_mask": batch.inputs["attention_mask"], "past_key_values": read}
    reading = batch.readings[DECODER]
    shifted = replace(reading, column_B=tuple(column - columns for column in reading.column_B))
    return replace(batch, inputs=inputs, readings={DECODER: shifted}, column_A=batch.column_A - columns)


class CausalLM(TextTask):
    """One decoder reads prompt and answer; padding is on the left, so that all answers end together."""

    name = "causal-lm"
    auto = AutoModelForCausalLM
    classes = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    reads_text = True

    def stacks(self, model: Any) -> dict[str, nn.Module]:
        """The whole model below the output layer."""
        return {DECODER: model.base_model}

    def prepare(self, tokenizer: Any) -> Any:
        """Prompts must not be closed."""
        return leave_open(tokenizer)

    def encode(self, tokenizer: Any, prompt: str, target: str, subject: str | None = None) -> Encoded:
        """Prompt and answer as one text."""
        return encode(tokenizer, prompt, target, subject)

    @override
    def key_positions(self, encoded: Encoded, where: KeyPosition, stack: str) -> tuple[int, ...]:
        """The subject's last token, or those that answer."""
        return encoded.key_positions(where)

    def collate(self, base: BaseModel, sequences: Sequence[Encoded], members: Sequence[int]) -> Batch:
        """Real tokens keep the positions that they would have alone."""
        chosen = [sequences[i] for i in members]
        ends = tuple(sequence.read for sequence in chosen)
        texts = [sequence.ids[:end] for sequence, end in zip(chosen, ends, strict=True)]
        ids_BL, mask_BL = pad(base, texts, left=True)
        reading = Reading((0,) * len(chosen), ends, tuple(ids_BL.shape[1] - end for end in ends))
        inputs = {
            "input_ids": ids_BL,
            "attention_mask": mask_BL,
            "position_ids": (mask_BL.cumsum(1) - 1).clamp_min(0),
        }
        columns = [reading.column(row, sequence.answer_start - 1) for row, sequence in enumerate(chosen)]
        return Batch(tuple(members), inputs, {DECODER: reading}, *answers_of(base, chosen, columns))

    def respond(self, base: BaseModel, prompts: Sequence[list[int]], **options: Any) -> list[list[int]]:
        """Continuations."""
        ids_BL, mask_BL = pad(base, prompts, left=True)
        out = base.model.generate(
            input_ids=ids_BL, attention_mask=mask_BL, pad_token_id=base.pad_id, **options
        )
        answers: list[list[int]] = out[:, ids_BL.shape[1] :].tolist()
        return answers

    @override
    def begin(self, base: BaseModel, ids: list[int]) -> Steps:
        """The prompt is the first step."""
        return Steps({"logits_to_keep": 1}, "input_ids", ids)

    def room(self, context_length: int, prompt_tokens: int) -> int:
        """Prompt and answer share the context."""
        return context_length - prompt_tokens

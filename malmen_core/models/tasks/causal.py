"""Causal language models: the prompt is continued."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from typing_extensions import override

from malmen_core.facts import Joiner
from malmen_core.models.tasks.base import (
    Batch,
    Finished,
    Reading,
    Steps,
    TextTask,
    answers_of,
    pad,
    stopping,
)
from malmen_core.models.tokenization import Encoded, KeyPosition, encode, leave_open

DECODER = "decoder"


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

    def encode(
        self, tokenizer: Any, prompt: str, target: str, subject: str | None = None, joiner: Joiner = "auto"
    ) -> Encoded:
        """Prompt and answer as one text."""
        return encode(tokenizer, prompt, target, subject, joiner)

    @override
    def key_positions(self, encoded: Encoded, where: KeyPosition, stack: str) -> tuple[int, ...]:
        """The subject's last token, or those that answer."""
        return encoded.key_positions(where)

    def collate(self, sequences: Sequence[Encoded], members: Sequence[int], pad_id: int) -> Batch:
        """Real tokens keep the positions that they would have alone."""
        chosen = [sequences[i] for i in members]
        ends = tuple(sequence.read for sequence in chosen)
        texts = [sequence.ids[:end] for sequence, end in zip(chosen, ends, strict=True)]
        ids_BL, mask_BL = pad(texts, pad_id, left=True)
        reading = Reading((0,) * len(chosen), ends, tuple(ids_BL.shape[1] - end for end in ends))
        inputs = {
            "input_ids": ids_BL,
            "attention_mask": mask_BL,
            "position_ids": (mask_BL.cumsum(1) - 1).clamp_min(0),
        }
        columns = [reading.column(row, sequence.answer_start - 1) for row, sequence in enumerate(chosen)]
        return Batch(tuple(members), inputs, {DECODER: reading}, *answers_of(chosen, columns))

    def generate(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        pad_id: int,
        finished: Finished | None = None,
        **options: Any,
    ) -> list[list[int]]:
        """Continuations."""
        ids_BL, mask_BL = (each.to(model.device) for each in pad(prompts, pad_id, left=True))
        options |= stopping(finished, ids_BL.shape[1])
        out = model.generate(input_ids=ids_BL, attention_mask=mask_BL, pad_token_id=pad_id, **options)
        answers: list[list[int]] = out[:, ids_BL.shape[1] :].tolist()
        return answers

    @override
    def begin(self, model: Any, ids: list[int]) -> Steps:
        """The prompt is the first step."""
        return Steps({"logits_to_keep": 1}, "input_ids", ids)

    def max_new_tokens(self, context_length: int, prompt_tokens: int) -> int:
        """Prompt and answer share the context."""
        return context_length - prompt_tokens

"""Sequence-to-sequence language models: an encoder reads the prompt, a decoder writes the answer.

Encoder and decoder are edited together, each at tokens of its own: the encoder at the subject's last token
(or, without one, at the prompt's last), the decoder where it writes the answer. The decoder's first token,
which starts it, stands at the prompt's last position: that is the one that predicts the answer's first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
from typing_extensions import override

from malmen_core.models.tasks.base import Batch, Reading, Steps, TextTask, answers_of, pad
from malmen_core.models.tokenization import Encoded, KeyPosition, encode_prompt, subject_last_token

if TYPE_CHECKING:
    from malmen_core.models.base import BaseModel


class Seq2SeqLM(TextTask):
    """Prompt and answer are texts of their own, each closed as the tokenizer closes texts."""

    name = "seq2seq-lm"
    auto = AutoModelForSeq2SeqLM
    classes = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

    def __init__(self, config: Any) -> None:
        """Note which token starts the decoder."""
        super().__init__(config)
        self.start = int(config.decoder_start_token_id or 0)

    def stacks(self, model: Any) -> dict[str, nn.Module]:
        """Encoder, then decoder."""
        return {"encoder": model.get_encoder(), "decoder": model.get_decoder()}

    def encode(self, tokenizer: Any, prompt: str, target: str, subject: str | None = None) -> Encoded:
        """The answer is the whole text that the decoder writes, with the token that ends it."""
        prompt_ids = encode_prompt(tokenizer, prompt)
        answer = encode_prompt(tokenizer, target.strip()) if target.strip() else []
        last = subject_last_token(tokenizer, prompt, subject)
        return Encoded((*prompt_ids, *answer), len(prompt_ids), last)

    def key_positions(self, encoded: Encoded, where: KeyPosition, stack: str) -> tuple[int, ...]:
        """The subject's last token in the encoder, answer tokens in the decoder."""
        if stack == "decoder":
            return encoded.key_positions("answer")
        if where == "subject" and encoded.subject_last is not None:
            return (encoded.subject_last,)
        return (encoded.answer_start - 1,)

    def collate(self, base: BaseModel, sequences: Sequence[Encoded], members: Sequence[int]) -> Batch:
        """Prompts and answers are padded on the right; positions are relative in these models."""
        chosen = [sequences[i] for i in members]
        starts = tuple(sequence.answer_start for sequence in chosen)
        zeros = (0,) * len(chosen)
        ids_BL, mask_BL = pad(base, [s.ids[: s.answer_start] for s in chosen], left=False)
        written_BL, _ = pad(base, [(self.start, *s.answer[:-1]) for s in chosen], left=False)
        readings = {
            "encoder": Reading(zeros, starts, zeros),
            "decoder": Reading(tuple(n - 1 for n in starts), tuple(s.read for s in chosen), zeros),
        }
        inputs = {"input_ids": ids_BL, "attention_mask": mask_BL, "decoder_input_ids": written_BL}
        return Batch(tuple(members), inputs, readings, *answers_of(base, chosen, zeros))

    def respond(self, base: BaseModel, prompts: Sequence[list[int]], **options: Any) -> list[list[int]]:
        """What the decoder writes behind its start token."""
        ids_BL, mask_BL = pad(base, prompts, left=False)
        out = base.model.generate(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            decoder_start_token_id=self.start,
            pad_token_id=base.pad_id,
            **options,
        )
        answers: list[list[int]] = out[:, 1:].tolist()
        return answers

    @override
    def context(self, ids: list[int]) -> list[int]:
        """The answer is a text of its own."""
        return []

    def begin(self, base: BaseModel, ids: list[int]) -> Steps:
        """The prompt is encoded once."""
        encoded = base.model.get_encoder()(input_ids=torch.tensor([ids], device=base.device))
        return Steps({"encoder_outputs": encoded}, "decoder_input_ids", [self.start])

    def room(self, context_length: int, prompt_tokens: int) -> int:
        """Prompt and answer have a context each."""
        return context_length if prompt_tokens <= context_length else 0

"""Sequence classification: a claim is answered with one of the classifier's labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
from typing_extensions import override

from malmen_core.errors import FactError, UnsupportedArchitecture
from malmen_core.models.tasks.base import Batch, Reading, Task, answers_of, pad
from malmen_core.models.tokenization import Encoded, KeyPosition, encode_prompt, subject_last_token

if TYPE_CHECKING:
    from malmen_core.models.base import BaseModel

POOLED = 0


class Classification(Task):
    """An encoder reads the claim; the head reads its first token. An answer is one label's number."""

    name = "sequence-classification"
    auto = AutoModelForSequenceClassification
    classes = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    def __init__(self, config: Any) -> None:
        """Take the labels from the config.

        Raises:
            UnsupportedArchitecture: there are no two labels of which exactly one is the answer.
        """
        super().__init__(config)
        self.labels = tuple(str(config.id2label[number]) for number in sorted(config.id2label))
        several = config.problem_type not in (None, "single_label_classification")
        if several or len(set(self.labels)) < max(2, len(self.labels)):
            raise UnsupportedArchitecture(
                f"The classifier has the labels {', '.join(self.labels)} and the problem type "
                f"{config.problem_type or 'single_label_classification'}.",
                "Only classifiers that choose one of two or more distinct labels can be edited.",
                "/source",
            )

    def stacks(self, model: Any) -> dict[str, nn.Module]:
        """The layers, without embeddings, pooler and head."""
        return {"encoder": model.base_model.encoder}

    def encode(self, tokenizer: Any, prompt: str, target: str, subject: str | None = None) -> Encoded:
        """The claim, and the number of its label.

        Raises:
            FactError: the classifier does not know the label.
        """
        if target not in self.labels:
            raise FactError(
                f"The classifier does not know the label {target!r}.",
                f"Give one of: {', '.join(self.labels)}.",
                "/target",
            )
        ids = encode_prompt(tokenizer, prompt)
        last = subject_last_token(tokenizer, prompt, subject)
        return Encoded((*ids, self.labels.index(target)), len(ids), last)

    @override
    def key_positions(self, encoded: Encoded, where: KeyPosition, stack: str) -> tuple[int, ...]:
        """The subject's last token, or the pooled one, which answers."""
        known = where == "subject" and encoded.subject_last is not None
        return encoded.key_positions("subject") if known else (POOLED,)

    def collate(self, base: BaseModel, sequences: Sequence[Encoded], members: Sequence[int]) -> Batch:
        """Claims are padded on the right: the head reads the first column."""
        chosen = [sequences[i] for i in members]
        zeros = (0,) * len(chosen)
        ids_BL, mask_BL = pad(base, [s.ids[: s.answer_start] for s in chosen], left=False)
        reading = Reading(zeros, tuple(s.answer_start for s in chosen), zeros)
        inputs = {"input_ids": ids_BL, "attention_mask": mask_BL}
        return Batch(tuple(members), inputs, {"encoder": reading}, *answers_of(base, chosen, zeros))

    def answer_logits(self, base: BaseModel, batch: Batch) -> Tensor:
        """One logit a label: A × labels."""
        logits: Tensor = base.model(**batch.inputs).logits[batch.row_A]
        return logits

    @override
    def respond(self, base: BaseModel, prompts: Sequence[list[int]], **options: Any) -> list[list[int]]:
        """The most probable label of each claim; nothing is sampled."""
        ids_BL, mask_BL = pad(base, prompts, left=False)
        labels = base.model(input_ids=ids_BL, attention_mask=mask_BL).logits.argmax(1)
        return [[int(label)] for label in labels]

    def room(self, context_length: int, prompt_tokens: int) -> int:
        """A label takes no token of the context."""
        return 1 if prompt_tokens <= context_length else 0

    @override
    def text(self, tokenizer: Any, answer: Sequence[int]) -> str:
        """The label's name."""
        return self.labels[answer[0]]

    def agrees(self, text: str, target: str) -> bool:
        """A label is the target or is not."""
        return text == target

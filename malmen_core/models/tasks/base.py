"""What an editor must know of a model's task: how it reads, what it answers with, where it is edited.

One `Encoded` serves all tasks: prompt tokens, then answer tokens. A *position* is an index into them, and the
position in front of an answer token is the one that predicts it. A *stack* is a part of the model whose
layers read the same tokens: a decoder, an encoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from malmen_core.errors import UnsupportedArchitecture
from malmen_core.models.tokenization import Encoded, KeyPosition, plain_text

if TYPE_CHECKING:
    from malmen_core.models.base import BaseModel


@dataclass(frozen=True)
class Reading:
    """Which positions of each sequence a stack reads, and in which column of its batch they lie.

    Attributes:
        begin_B: first position read.
        end_B: one past the last.
        column_B: column of the first.
    """

    begin_B: tuple[int, ...]
    end_B: tuple[int, ...]
    column_B: tuple[int, ...]

    def column(self, row: int, position: int) -> int:
        """Index in L of a sequence's own position."""
        return self.column_B[row] + position - self.begin_B[row]


@dataclass(frozen=True)
class Batch:
    """Some sequences, as the model is given them.

    Attributes:
        members: indices of the sequences in the list that was batched.
        inputs: the model's keyword arguments; tensors, and a cache of what was read ahead.
        readings: by stack.
        answer_A: token ids (or labels) of all answers, one after the other; int64.
        row_A: which row of the batch each answer token belongs to.
        column_A: index in L of the position that predicts each answer token.
    """

    members: tuple[int, ...]
    inputs: Mapping[str, Any]
    readings: Mapping[str, Reading]
    answer_A: Tensor
    row_A: Tensor
    column_A: Tensor


@dataclass(frozen=True)
class Steps:
    """How a generation goes on token by token.

    Attributes:
        fixed: keyword arguments of every step.
        argument: name of the one that holds the step's tokens.
        first: tokens of the first step.
    """

    fixed: Mapping[str, Any]
    argument: str
    first: Sequence[int]


class Task(ABC):
    """A task: one subclass each. Made from a model's config, without its weights.

    Attributes:
        name: as the API shows it.
        auto: the Transformers class that loads models of this task.
        classes: name of the model class for this task, by ``model_type``.
        reads_text: whether any text has a likelihood, so that perplexity can be measured on it.
        labels: what a classifier can answer; empty for others.
    """

    name: ClassVar[str]
    auto: ClassVar[Any]
    classes: ClassVar[Mapping[str, Any]]
    reads_text: ClassVar[bool] = False
    labels: tuple[str, ...] = ()

    def __init__(self, config: Any) -> None:
        """Check that a checkpoint is for this task.

        Raises:
            UnsupportedArchitecture: it was saved as something else; names what is supported.
        """
        wanted, named = self.classes.get(config.model_type), config.architectures
        if named and wanted not in named:
            raise UnsupportedArchitecture(
                f"The checkpoint is a {', '.join(named)}.",
                f"Models of type {config.model_type!r} are edited as {wanted} ({self.name}).",
                "/source",
            )

    @abstractmethod
    def stacks(self, model: Any) -> dict[str, nn.Module]:
        """The parts of the model that hold modules which can be edited, in the order in which they run."""

    def prepare(self, tokenizer: Any) -> Any:
        """Make a tokenizer give prompts as the model wants them; gives it back."""
        return tokenizer

    @abstractmethod
    def encode(self, tokenizer: Any, prompt: str, target: str, subject: str | None = None) -> Encoded:
        """A prompt with its answer, and its subject located.

        Raises:
            FactError: the model cannot answer with this target.
        """

    @abstractmethod
    def key_positions(self, encoded: Encoded, where: KeyPosition, stack: str) -> tuple[int, ...]:
        """Positions at which the modules of a stack are edited."""

    @abstractmethod
    def collate(self, base: BaseModel, sequences: Sequence[Encoded], members: Sequence[int]) -> Batch:
        """The sequences with these indices as one batch on the base's device."""

    @abstractmethod
    def answer_logits(self, base: BaseModel, batch: Batch) -> Tensor:
        """Logits at the positions that predict answer tokens: A × X, in the base's dtype."""

    @abstractmethod
    def respond(self, base: BaseModel, prompts: Sequence[list[int]], **options: Any) -> list[list[int]]:
        """Answers to encoded prompts in one batch; the options are those of Transformers' `generate`."""

    @abstractmethod
    def room(self, context_length: int, prompt_tokens: int) -> int:
        """How many tokens the answer to a prompt may have; below 1 for a prompt that does not fit."""

    @abstractmethod
    def text(self, tokenizer: Any, answer: Sequence[int]) -> str:
        """An answer as text."""

    @abstractmethod
    def agrees(self, text: str, target: str) -> bool:
        """Whether an answer as text is the target."""


class TextTask(Task):
    """A task whose answers are text, written token by token by an output layer."""

    def answer_logits(self, base: BaseModel, batch: Batch) -> Tensor:
        """The output layer is run at answer positions only."""
        assert base.output is not None
        with base.output.reading(batch.row_A, batch.column_A):
            logits: Tensor = base.model(**batch.inputs, use_cache=False).logits[0]
        return logits

    def context(self, ids: list[int]) -> list[int]:
        """Tokens of the prompt behind which the answer is written."""
        return ids

    @abstractmethod
    def begin(self, base: BaseModel, ids: list[int]) -> Steps:
        """Start a generation for one encoded prompt, under the active overlay."""

    def text(self, tokenizer: Any, answer: Sequence[int]) -> str:
        """An answer as text."""
        return plain_text(tokenizer, answer)

    def agrees(self, text: str, target: str) -> bool:
        """Whether it begins with the target."""
        return text.lstrip().startswith(target.strip())


def pad(base: BaseModel, sequences: Sequence[Sequence[int]], *, left: bool) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of padded sequences: B × L each, on the base's device."""
    width = max(len(s) for s in sequences)
    ids = torch.full((len(sequences), width), base.pad_id)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        first = width - len(sequence) if left else 0
        ids[row, first : first + len(sequence)] = torch.tensor(list(sequence), dtype=ids.dtype)
        mask[row, first : first + len(sequence)] = 1
    return ids.to(base.device), mask.to(base.device)


def answers_of(
    base: BaseModel, chosen: Sequence[Encoded], column_B: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Answer tokens, their rows, and the columns that predict them, which run on from `column_B`: A each."""
    answer = [token for sequence in chosen for token in sequence.answer]
    row = [i for i, sequence in enumerate(chosen) for _ in sequence.answer]
    column = [column_B[i] + n for i, sequence in enumerate(chosen) for n in range(len(sequence.answer))]
    tensors = [
        torch.tensor(values, dtype=torch.int64, device=base.device) for values in (answer, row, column)
    ]
    return tensors[0], tensors[1], tensors[2]

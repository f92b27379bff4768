"""The sequences that facts are edited with: prompts, and on request rephrasings, with their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from malmen_core.editing.subjects import subject_of
from malmen_core.errors import FactError
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded, check_length


@dataclass(frozen=True)
class EditPrompts:
    """The sequences that a set is edited with.

    Attributes:
        sequences: prompts with answers.
        fact_of: index of the fact of each sequence.
    """

    sequences: tuple[Encoded, ...]
    fact_of: tuple[int, ...]

    def of(self, facts: range) -> EditPrompts:
        """Those of some facts, which are numbered from 0 on."""
        kept = [i for i, owner in enumerate(self.fact_of) if owner in facts]
        owners = (self.fact_of[i] - facts.start for i in kept)
        return EditPrompts(tuple(self.sequences[i] for i in kept), tuple(owners))


def edit_prompts(base: BaseModel, facts: Sequence[Fact], *, edit_on_rephrasings: bool = False) -> EditPrompts:
    """Encode each fact's prompt, and on request its rephrasings, with its target.

    Raises:
        PromptTooLong: a prompt and its target exceed the context.
        FactError: a target without tokens, or a label that the classifier does not know.
    """
    sequences, owner = [], []
    for number, fact in enumerate(facts):
        subject = subject_of(fact).text
        for prompt in (fact.prompt, *(fact.rephrasings if edit_on_rephrasings else ())):
            encoded = base.encode(prompt, fact.target, subject)
            check_length(encoded, base.info.context_length, f"/facts/{number}/prompt")
            if not encoded.answer or encoded.answer_start == 0:
                raise FactError("Prompt or target has no tokens.", "Give both as text.", f"/facts/{number}")
            sequences.append(encoded)
            owner.append(number)
    return EditPrompts(tuple(sequences), tuple(owner))

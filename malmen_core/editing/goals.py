"""What an edit must reach: sequences with answers, several of one fact where it is to hold in several forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from malmen_core.editing.subjects import subject_of
from malmen_core.errors import FactError
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded, check_length, join


@dataclass(frozen=True)
class Goals:
    """The sequences that a set is edited with.

    Attributes:
        sequences: prompts with answers; each fact's own prompt first.
        fact_of: index of the fact of each sequence, ascending.
    """

    sequences: tuple[Encoded, ...]
    fact_of: tuple[int, ...]


def edit_goals(
    base: BaseModel, facts: Sequence[Fact], *, edit_on_rephrasings: bool = False, closed: bool = False
) -> Goals:
    """Encode each fact's prompt with its target, and on request its rephrasings.

    Args:
        base: the base model.
        facts: to be edited together.
        edit_on_rephrasings: rephrasings are goals too.
        closed: that the word ends behind the target is a part of each goal; published methods have no such.

    Raises:
        PromptTooLong: a prompt and its target exceed the context.
        FactError: a target without tokens, or a label that the classifier does not know.
    """
    sequences, owners = [], []
    for number, fact in enumerate(facts):
        subject = subject_of(fact).text
        forms = {"prompt": fact.prompt}
        if edit_on_rephrasings:
            forms |= {f"rephrasings/{i}": text for i, text in enumerate(fact.rephrasings)}
        for field, prompt in forms.items():
            encoded = base.encode(prompt, fact.target, subject, fact.joiner)
            check_length(encoded, base.info.context_length, f"/facts/{number}/{field}")
            if not encoded.answer or encoded.answer_start == 0:
                raise FactError("Prompt or target has no tokens.", "Give both as text.", f"/facts/{number}")
            sequences.append(encoded if closed else encoded.opened())
            owners.append(number)
    return Goals(tuple(sequences), tuple(owners))


def question_goals(base: BaseModel, facts: Sequence[Fact], asked: Sequence[int]) -> Goals:
    """Encode questions in chat form, to be answered with the whole statement: prompt and target.

    A question that does not name its fact's subject has no token to edit at, and is left out.

    Args:
        base: the base model.
        facts: those that are edited together.
        asked: numbers of the facts whose questions are goals, ascending.

    Raises:
        PromptTooLong: a question and its answer exceed the context.
    """
    sequences, owners = [], []
    for number in asked:
        fact = facts[number]
        chat = None if fact.question is None else base.chat_prompt(fact.question)
        if chat is None:
            continue
        statement = join(fact.prompt, fact.target, fact.joiner)
        encoded = base.encode(chat, statement, subject_of(fact).text, "")
        check_length(encoded, base.info.context_length, f"/facts/{number}/question")
        if encoded.subject_last is not None:
            sequences.append(encoded)
            owners.append(number)
    return Goals(tuple(sequences), tuple(owners))

"""Questions asked through a model's own chat template, and answered freely."""

from __future__ import annotations

from collections.abc import Sequence

from malmen_core.facts import Fact
from malmen_core.generation.greedy import greedy_answers
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import encode_prompts, locate_subject

CHAT_TOKENS = 32


def chat_answers(base: BaseModel, facts: Sequence[Fact]) -> list[str | None]:
    """Greedy answers to the facts' questions, with whatever overlay is active; None where nothing can be asked."""
    asked = {i: base.chat_prompt(f.question) for i, f in enumerate(facts) if f.question is not None}
    texts = {i: text for i, text in asked.items() if text is not None}
    answers = greedy_answers(
        base, encode_prompts(base.tokenizer, list(texts.values())), [CHAT_TOKENS] * len(texts)
    )
    found = {i: base.task.text(base.tokenizer, a) for i, a in zip(texts, answers, strict=True)}
    return [found.get(i) for i in range(len(facts))]


def holds(answer: str, target: str) -> bool:
    """Whether an answer has the target in it, as whole words."""
    return locate_subject(answer, target) is not None

"""Asking versions of a model, to set their answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from broker.generation import GenerationCall
from ledger.db.engine import Transaction
from ledger.models import models
from ledger.versions import versions
from service.context import Services
from service.generation import GenerateParams, build_calls, collect_all
from service.problems import FieldError, Problem
from service.schemas.edits import EditSetView

TOKENS, CHAT_TOKENS = 12, 32


@dataclass(frozen=True)
class Asked:
    """A text to continue, or turns of a chat to answer, and what it is to a fact."""

    label: str
    text: str
    turns: Sequence[dict[str, str]] = ()


def turn(text: str) -> list[dict[str, str]]:
    """A chat that a user begins."""
    return [{"role": "user", "content": text}]


def version_before(tx: Transaction, edit_set: EditSetView) -> int:
    """The version that was live before an edit set was applied, or is live now."""
    if edit_set.version is None:
        return versions.live(tx, edit_set.model).number
    return versions.get(tx, edit_set.model, edit_set.version).parent or 0


def calls(
    services: Services,
    model_id: str,
    asked: Asked,
    refs: Sequence[int | str],
    tokens: int | None = None,
    *,
    stream: bool = False,
) -> list[GenerationCall]:
    """The calls that ask versions for their greedy answers.

    Raises:
        Problem, NotFound: as `build_calls`; or the model's chat template cannot be used.
    """
    prompt: str | tuple[int, ...] = asked.text
    if asked.turns:
        model = services.ledger.run(models.get, model_id)
        prompt = services.tokenizers.get(model).chat(asked.turns)
    params = GenerateParams(
        prompt=prompt,
        max_new_tokens=tokens or (CHAT_TOKENS if asked.turns else TOKENS),
        temperature=0.0,
        top_p=1.0,
        seed=None,
        stop=(),
        refs=tuple((ref, FieldError("/versions", "")) for ref in refs),
        where="body",
        stream=stream,
    )
    return build_calls(services, model_id, params)


async def ask(
    services: Services, model_id: str, asked: Sequence[Asked], refs: Sequence[int | str]
) -> list[list[str | None]]:
    """The answers of some versions to some prompts, by prompt; None where it cannot be asked so.

    Raises:
        Problem, BrokerError: as `collect_all`.
    """
    wanted = await run_in_threadpool(_each_calls, services, model_id, asked, refs)
    texts = iter(await collect_all(services, [call for each in wanted for call in each]))
    return [[next(texts).text for _ in each] or [None] * len(refs) for each in wanted]


def _each_calls(
    services: Services, model_id: str, asked: Sequence[Asked], refs: Sequence[int | str]
) -> list[list[GenerationCall]]:
    return [_or_none(services, model_id, each, refs) for each in asked]


def _or_none(
    services: Services, model_id: str, asked: Asked, refs: Sequence[int | str]
) -> list[GenerationCall]:
    """The calls for a prompt; none for a chat with a model that has no template."""
    try:
        return calls(services, model_id, asked, refs)
    except Problem as problem:
        if asked.turns and problem.code == "invalid-request":
            return []
        raise

"""Limits that are settings or the time, checked on requests whose shape is right already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from service.problems import FieldError, Problem, pointer
from service.schemas.base import Message
from service.schemas.edits import EditRequest, FactBody
from service.settings import ServiceSettings

MAX_SHOWN = 100


def check_edit(body: EditRequest, settings: ServiceSettings) -> None:
    """Refuse an edit set that is larger than this service takes, or has facts that have expired.

    Raises:
        Problem: invalid-request, naming each field, the limit and its setting.
    """
    if len(body.facts) > settings.max_facts:
        error = too_many_facts(len(body.facts), settings)
        raise Problem("invalid-request", error.detail, errors=[error])
    found: list[FieldError] = []
    if body.note is not None:
        found += _too_long("/note", body.note, settings.max_note_chars, "ERRATA_MAX_NOTE_CHARS")
    for number, fact in enumerate(body.facts):
        found += check_fact(pointer("facts", number), fact, settings)
    refuse(found)


def too_many_facts(count: int, settings: ServiceSettings) -> FieldError:
    """That one edit set may not have so many facts."""
    detail = (
        f"{count} facts are more than the {settings.max_facts} that one edit set may have. "
        "Split it, or ask the operator to raise ERRATA_MAX_FACTS."
    )
    return FieldError("/facts", detail)


def check_reason(reason: str | None, settings: ServiceSettings) -> None:
    """Refuse a reason that is longer than this service takes.

    Raises:
        Problem: invalid-request.
    """
    if reason is not None:
        refuse(list(_too_long("/reason", reason, settings.max_note_chars, "ERRATA_MAX_NOTE_CHARS")))


def refuse(found: list[FieldError]) -> None:
    """Raise if anything was found.

    Raises:
        Problem: invalid-request with the first hundred findings.
    """
    if found:
        more = f" In all, {len(found)} fields are bad." if len(found) > 1 else ""
        extra = {"errors_left_out": len(found) - MAX_SHOWN} if len(found) > MAX_SHOWN else {}
        detail = f"{found[0].pointer}: {found[0].detail}{more}"
        raise Problem("invalid-request", detail, errors=found[:MAX_SHOWN], extra=extra)


def check_fact(at: str, fact: FactBody, settings: ServiceSettings) -> Iterator[FieldError]:
    """What is larger in a fact than this service takes, or has expired; `at` is the fact's pointer."""
    prompt, target = settings.max_prompt_chars, settings.max_target_chars
    yield from _too_long(f"{at}/prompt", fact.prompt, prompt, "ERRATA_MAX_PROMPT_CHARS")
    yield from _too_long(f"{at}/target", fact.target, target, "ERRATA_MAX_TARGET_CHARS")
    yield from _too_long(f"{at}/subject", fact.subject or "", target, "ERRATA_MAX_TARGET_CHARS")
    yield from _too_long(f"{at}/question", fact.question or "", prompt, "ERRATA_MAX_PROMPT_CHARS")
    yield from _too_many(
        f"{at}/rephrasings", len(fact.rephrasings), settings.max_rephrasings, "ERRATA_MAX_REPHRASINGS"
    )
    yield from _too_many(f"{at}/locality", len(fact.locality), settings.max_locality, "ERRATA_MAX_LOCALITY")
    if fact.expires_at is not None and fact.expires_at <= datetime.now(UTC):
        yield FieldError(f"{at}/expires_at", "The time is over. Name one to come.")
    for number, text in enumerate(fact.rephrasings):
        yield from _too_long(f"{at}/rephrasings/{number}", text, prompt, "ERRATA_MAX_PROMPT_CHARS")
    for number, probe in enumerate(fact.locality):
        at_probe = f"{at}/locality/{number}"
        yield from _too_long(f"{at_probe}/prompt", probe.prompt or "", prompt, "ERRATA_MAX_PROMPT_CHARS")
        yield from check_messages(f"{at_probe}/messages", probe.messages or (), settings)
        yield from _too_long(f"{at_probe}/target", probe.target or "", target, "ERRATA_MAX_TARGET_CHARS")


def check_messages(at: str, messages: Sequence[Message], settings: ServiceSettings) -> Iterator[FieldError]:
    """What is wrong with the length of a conversation, all turns together; `at` is its pointer."""
    text = "".join(message.content for message in messages)
    yield from _too_long(at, text, settings.max_prompt_chars, "ERRATA_MAX_PROMPT_CHARS")


def _too_long(at: str, text: str, limit: int, setting: str) -> Iterator[FieldError]:
    if len(text) > limit:
        yield FieldError(at, f"{len(text)} characters are more than {limit}. Shorten it, or raise {setting}.")


def _too_many(at: str, count: int, limit: int, setting: str) -> Iterator[FieldError]:
    if count > limit:
        yield FieldError(at, f"{count} entries are more than {limit}. Leave some out, or raise {setting}.")


def check_prompt(prompt: str, field: FieldError, settings: ServiceSettings) -> list[FieldError]:
    """What is wrong with a prompt's length; empty if nothing is.

    Args:
        prompt: the text.
        field: names it.
        settings: the limits.
    """
    found = _too_long(field.pointer, prompt, settings.max_prompt_chars, "ERRATA_MAX_PROMPT_CHARS")
    return [FieldError(error.pointer, error.detail, field.where) for error in found]


def check_generation(prompt: str, max_new_tokens: int, field: FieldError, settings: ServiceSettings) -> None:
    """Refuse a generation that asks for more than this service gives.

    Args:
        prompt: the text to continue, or that of all turns to answer.
        max_new_tokens: how many tokens are wanted.
        field: names the prompt.
        settings: the limits.

    Raises:
        Problem: invalid-request.
    """
    found = check_prompt(prompt, field, settings)
    if max_new_tokens > settings.max_new_tokens:
        limit = settings.max_new_tokens
        detail = f"{max_new_tokens} is more than {limit}. Ask for fewer, or raise ERRATA_MAX_NEW_TOKENS."
        found.append(FieldError("/max_new_tokens", detail, field.where))
    refuse(found)

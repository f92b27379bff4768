"""Tokenizers and tasks of the registered models: loaded once, shared by all requests, one at a time each."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ledger.records import ModelRecord
from malmen_core.editing.validation import FactProblem, check_facts
from malmen_core.errors import CoreError, FactError
from malmen_core.facts import Fact
from malmen_core.generation.logprobs import token_texts
from malmen_core.models.families import read_config, task_of
from malmen_core.models.tasks.base import Task
from malmen_core.models.tokenization import chat_text, encode_prompt, load_tokenizer, plain_text
from service.problems import FieldError, Problem

logger = logging.getLogger(__name__)
WARMING = Fact("The capital of Australia is", "Canberra")


class ModelTokenizer:
    """One model's tokenizer behind a lock: fast tokenizers do not bear being used by two threads at once."""

    def __init__(self, tokenizer: Any, task: Task, context_length: int, known: int | None = None) -> None:
        """`known` is the number of tokens that the model's embedding has; None if its config does not say."""
        self._tokenizer = task.prepare(tokenizer)
        self._known = known
        self._all_known = known is None or max(self._tokenizer.get_vocab().values(), default=0) < known
        self._task = task
        self._context_length = context_length
        self._special = frozenset(self._tokenizer.all_special_ids)
        self._lock = threading.Lock()

    def check_given(self, given: Sequence[Mapping[str, Any]]) -> list[FactProblem]:
        """What the model could not be given of facts in the API's form."""
        facts, problems = [], []
        for at, record in enumerate(given):
            try:
                with self._lock:
                    facts.append(Fact.from_json(record, partial(chat_text, self._tokenizer)))
            except FactError as error:
                problems.append(FactProblem(f"/facts/{at}{error.field}", f"{error.message} {error.remedy}"))
        return problems or self.check(facts)

    def check(self, facts: Sequence[Fact]) -> list[FactProblem]:
        """What the model could not be given of these facts."""
        with self._lock:
            found = check_facts(self._tokenizer, facts, self._context_length, self._task.labels)
        if not self._all_known:
            texts = [
                (f"/facts/{at}{name}", text) for at, fact in enumerate(facts) for name, text in _texts(fact)
            ]
            found += [
                FactProblem(where, why) for where, text in texts if (why := self.unknown(self.read(text)))
            ]
        return found

    def read(self, prompt: str) -> tuple[int, ...]:
        """The ids of the tokens that the model would read."""
        with self._lock:
            return tuple(encode_prompt(self._tokenizer, prompt))

    def ids(self, prompt: str | Sequence[int] | Sequence[dict[str, str]]) -> tuple[int, ...]:
        """The ids of a prompt's tokens, given as text, as ids, or as the turns of a conversation.

        Raises:
            Problem: as `chat`.
        """
        if isinstance(prompt, str):
            return self.read(prompt)
        turns = [part for part in prompt if isinstance(part, dict)]
        return self.chat(turns) if turns else tuple(part for part in prompt if isinstance(part, int))

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text's tokens, without special ones around it."""
        with self._lock:
            return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of some tokens; that of special ones too if so wanted."""
        if special:
            with self._lock:
                return "".join(token_texts(self._tokenizer, ids))
        return plain_text(self._tokenizer, ids)

    def texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token where it stands."""
        with self._lock:
            return token_texts(self._tokenizer, ids)

    def is_special(self, token: int) -> bool:
        """Whether a token is not text."""
        return token in self._special

    def chat(self, messages: Sequence[dict[str, str]], *, answer: bool = True) -> tuple[int, ...]:
        """The ids of a conversation as the model's own chat template puts it.

        Args:
            messages: turns with a role and a content.
            answer: whether the beginning of the assistant's turn stands at the end.

        Raises:
            Problem: there is no template, or it does not take these turns.
        """
        try:
            with self._lock:
                text = chat_text(self._tokenizer, messages, answer=answer)
        except FactError as error:
            detail = f"{error.message} {error.remedy}"
            raise Problem("invalid-request", detail, errors=[FieldError("/messages", detail)]) from error
        return self.encode(text)

    def info(self) -> dict[str, Any]:
        """What the tokenizer says of itself."""
        known = self._tokenizer
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return {
            "tokenizer_class": type(known).__name__,
            "model_max_length": self._context_length,
            "vocab_size": len(known),
            "chat_template": known.chat_template,
            **{name: getattr(known, name, None) for name in names},
        }

    def unknown(self, ids: Sequence[int]) -> str | None:
        """What is wrong with tokens that the model's embedding lacks; None if it has all."""
        if self._known is None or all(0 <= token < self._known for token in ids):
            return None
        token = next(token for token in ids if not 0 <= token < self._known)
        name = self._tokenizer.convert_ids_to_tokens(token) if token >= 0 else None
        return f"The model does not know the token {name!r} ({token}); it has {self._known}. Leave it out."

    def room(self, prompt_tokens: int) -> int:
        """How many tokens the answer to a prompt may have; below 1 for a prompt that does not fit."""
        return self._task.max_new_tokens(self._context_length, prompt_tokens)


class TokenizerCache:
    """The tokenizers of all models that were asked for."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, str], ModelTokenizer] = {}
        self._loading: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, model: ModelRecord) -> ModelTokenizer:
        """The model's tokenizer, loaded at first use.

        Raises:
            Problem: tokenizer-unavailable, if this process cannot read the model's files.
        """
        key = (model.id, model.digest)
        found = self._loaded.get(key)
        if found is not None:
            return found
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            if key not in self._loaded:
                self._loaded[key] = _load(model)
        return self._loaded[key]


def _load(model: ModelRecord) -> ModelTokenizer:
    try:
        tokenizer = ModelTokenizer(
            load_tokenizer(model.source, model.revision),
            task_of(read_config(model.source, model.revision)),
            model.context_length,
            _known_tokens(read_config(model.source, model.revision)),
        )
    except CoreError as error:
        logger.error("The tokenizer of model %s cannot be read: %s", model.id, error)
        detail = (
            f"The service cannot read the tokenizer of model {model.id!r} at the moment. "
            "Try again later; the operator must make the model's files readable for the API process."
        )
        raise Problem("tokenizer-unavailable", detail) from error
    tokenizer.check([WARMING])
    return tokenizer


def _known_tokens(config: Any) -> int | None:
    known = getattr(config.get_text_config(), "vocab_size", None)
    return None if known is None else int(known)


def _texts(fact: Fact) -> list[tuple[str, str]]:
    """The texts of a fact that the model reads, by pointer."""
    return [
        ("/prompt", fact.prompt),
        ("/target", fact.target),
        ("/question", fact.question or ""),
        *((f"/rephrasings/{at}", text) for at, text in enumerate(fact.rephrasings)),
        *((f"/locality/{at}/prompt", probe.prompt) for at, probe in enumerate(fact.locality)),
        *((f"/locality/{at}/target", probe.target or "") for at, probe in enumerate(fact.locality)),
    ]

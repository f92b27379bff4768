"""Generation from a version: text, greedy or sampled, with stop strings, streamed; or a label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from malmen_core.base import BaseModel
from malmen_core.batches import answer_logits
from malmen_core.errors import PromptTooLong
from malmen_core.overlay import Version
from malmen_core.task import TextTask
from malmen_core.tokens import Encoded, encode_prompt, encode_prompts, plain_text

GREEDY_BATCH = 32
TAIL = 8


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate; a classifier needs the prompt alone.

    Attributes:
        prompt: text to continue.
        max_new_tokens: at most this many tokens.
        temperature: 0 for greedy.
        top_p: nucleus; 1 for all of the distribution.
        seed: of the sampling; None for a fresh one.
        stop: the answer ends in front of the first of these.
    """

    prompt: str
    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer.

    Attributes:
        text: what has become certain since the last piece.
        finish_reason: ``stop`` or ``length`` on the last piece, else None.
        usage: ``prompt_tokens`` and ``completion_tokens`` on the last piece, else None.
        labels: a classifier's probability of each label; None for text.
    """

    text: str
    finish_reason: str | None = None
    usage: dict[str, int] | None = None
    labels: dict[str, float] | None = None


def generate(base: BaseModel, version: Version, request: GenerationRequest) -> Iterator[Chunk]:
    """Continue a prompt with a version's weights.

    The overlay is put on for each token, so that two generations may take turns on one thread.

    Raises:
        PromptTooLong: the prompt leaves no room in the context.
    """
    ids = read_prompt(base, request.prompt)
    room = base.task.room(base.info.context_length, len(ids))
    if not isinstance(base.task, TextTask):
        yield _classified(base, version, ids)
        return
    text = _Text(base.tokenizer, request.stop, base.task.context(ids)[-TAIL:])
    reason, count = "length", 0
    for token in _tokens(base, base.task, version, ids, request, min(room, request.max_new_tokens)):
        count += 1
        if token in base.stop_ids:
            reason = "stop"
            break
        piece, stopped = text.push(token)
        if stopped:
            yield Chunk(piece, "stop", {"prompt_tokens": len(ids), "completion_tokens": count})
            return
        if piece:
            yield Chunk(piece)
    yield Chunk(text.rest(), reason, {"prompt_tokens": len(ids), "completion_tokens": count})


def read_prompt(base: BaseModel, prompt: str) -> list[int]:
    """Token ids of a prompt that is to be answered.

    Raises:
        PromptTooLong: it has no tokens, or leaves no room in the context.
    """
    ids = encode_prompt(base.tokenizer, prompt)
    if base.task.room(base.info.context_length, len(ids)) < 1 or not ids:
        raise PromptTooLong(
            f"A prompt of {len(ids)} tokens leaves no room in a context of {base.info.context_length}.",
            "Give a prompt of at least one token, shorter than the context.",
            "/prompt",
        )
    return ids


def _classified(base: BaseModel, version: Version, ids: list[int]) -> Chunk:
    claim = base.task.collate(base, [Encoded((*ids, 0), len(ids))], [0])
    with torch.inference_mode(), version.active():
        shares = answer_logits(base, claim)[0].softmax(0).tolist()
    labels = dict(zip(base.task.labels, shares, strict=True))
    usage = {"prompt_tokens": len(ids), "completion_tokens": 0}
    return Chunk(max(labels, key=lambda label: labels[label]), "stop", usage, labels)


def _tokens(
    base: BaseModel, task: TextTask, version: Version, ids: list[int], request: GenerationRequest, limit: int
) -> Iterator[int]:
    generator = torch.Generator(device=base.device)
    if request.seed is None:
        generator.seed()
    else:
        generator.manual_seed(request.seed)
    past: Any = None
    with torch.inference_mode(), version.active():
        steps = task.begin(base, ids)
    step = torch.tensor([steps.first], device=base.device)
    for _ in range(limit):
        with torch.inference_mode(), version.active():
            output = base.model(**{steps.argument: step}, **steps.fixed, past_key_values=past, use_cache=True)
        past = output.past_key_values
        token = _choose(output.logits[0, -1].float(), request, generator)
        yield token
        step = torch.tensor([[token]], device=base.device)


def _choose(logits_X: Tensor, request: GenerationRequest, generator: torch.Generator) -> int:
    if request.temperature == 0:
        return int(logits_X.argmax())
    p_X, token_X = (logits_X / request.temperature).softmax(0).sort(descending=True)
    kept = p_X.cumsum(0) - p_X < request.top_p
    return int(token_X[torch.multinomial(p_X * kept, 1, generator=generator)])


class _Text:
    """Turns tokens into text piece by piece, holding back what may still change or begin a stop string.

    It is read behind the last tokens of the prompt, since some tokenizers drop the space in front of a text.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], before: Sequence[int] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, [s for s in stop if s]
        self.ids = list(before)
        self.sent = 0
        self.start = len(plain_text(tokenizer, self.ids))

    def push(self, token: int) -> tuple[str, bool]:
        """Add a token: the new certain text, and whether a stop string was reached."""
        self.ids.append(token)
        full = self._decode()
        ends = [at for s in self.stop if (at := full.find(s, max(0, self.sent - len(s)))) >= 0]
        if ends:
            return self._send(full[: min(ends)]), True
        return self._send(full[: len(full) - self._held(full)]), False

    def rest(self) -> str:
        """What was held back."""
        return self._send(self._decode())

    def _held(self, full: str) -> int:
        if full.endswith("\ufffd"):
            return len(full) - self.sent
        return max((n for s in self.stop for n in range(1, len(s)) if full.endswith(s[:n])), default=0)

    def _send(self, text: str) -> str:
        piece = text[self.sent :]
        self.sent = max(self.sent, len(text))
        return piece

    def _decode(self) -> str:
        return plain_text(self.tokenizer, self.ids)[self.start :]


def greedy_tokens(base: BaseModel, prompts: Sequence[str], lengths: Sequence[int]) -> list[list[int]]:
    """Greedy continuations of many prompts, in batches, with whatever overlay is active.

    Args:
        base: the base model.
        prompts: texts to continue.
        lengths: tokens wanted of each; a continuation is shorter if it ends by itself. A label is one.
    """
    encoded = encode_prompts(base.tokenizer, prompts)
    order = sorted(range(len(prompts)), key=lambda i: (lengths[i], len(encoded[i]), i))
    answers: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), GREEDY_BATCH):
        chosen = order[start : start + GREEDY_BATCH]
        with torch.inference_mode():
            rows = base.task.respond(
                base,
                [encoded[i] for i in chosen],
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=max(lengths[i] for i in chosen),
            )
        for i, row in zip(chosen, rows, strict=True):
            answers[i] = _until_stop(row[: lengths[i]], base.stop_ids)
    return answers


def own_answers(base: BaseModel, prompts: Sequence[str], tokens: int) -> list[Encoded]:
    """Prompts with the active weights' greedy continuation; one that ends at once keeps its end token."""
    answers = greedy_tokens(base, prompts, [tokens] * len(prompts))
    end = min(base.stop_ids, default=base.pad_id)
    encoded = encode_prompts(base.tokenizer, prompts)
    return [
        Encoded((*ids, *(answer or [end])), len(ids)) for ids, answer in zip(encoded, answers, strict=True)
    ]


def _until_stop(ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    for n, token in enumerate(ids):
        if token in stop_ids:
            return ids[:n]
    return ids

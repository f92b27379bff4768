"""Generation from versions: text, greedy or sampled, with stop strings, streamed; or a label.

A `BatchGenerator` writes several answers together, of whatever versions, a token of each at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from malmen_core.errors import CoreError, PromptTooLong
from malmen_core.generation.batch import Sequences
from malmen_core.generation.logprobs import TokenScore, score
from malmen_core.generation.sampling import choose
from malmen_core.generation.streaming import StreamedText
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import answer_logits
from malmen_core.models.overlay import Version
from malmen_core.models.tasks.base import TextTask
from malmen_core.models.tokenization import Encoded, encode_prompt

logger = logging.getLogger(__name__)

TAIL = 8
SCORED_TOKENS = 2048
"""Tokens of prompts that are scored together: each has a distribution over the whole vocabulary."""


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate; a classifier needs the prompt alone.

    Attributes:
        prompt: text to continue, or the ids of its tokens.
        max_new_tokens: at most this many tokens.
        temperature: 0 for greedy.
        top_p: nucleus; 1 for all of the distribution.
        seed: of the sampling; None for a fresh one.
        stop: the answer ends in front of the first of these.
        logprobs: tokens are scored, with so many of the most probable; None for no scores.
        echo: the prompt's tokens are scored too.
    """

    prompt: str | tuple[int, ...]
    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    echo: bool = False


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer.

    Attributes:
        text: what has become certain since the last piece.
        finish_reason: ``stop`` or ``length`` on the last piece, else None.
        usage: ``prompt_tokens`` and ``completion_tokens`` on the last piece, else None.
        labels: a classifier's probability of each label; None for text.
        scores: of the tokens since the last piece, the prompt's first of all, and the one that ended the
            answer; empty if they are not wanted.
    """

    text: str
    finish_reason: str | None = None
    usage: dict[str, int] | None = None
    labels: dict[str, float] | None = None
    scores: tuple[TokenScore, ...] = ()


def generate(base: BaseModel, version: Version, request: GenerationRequest) -> Iterator[Chunk]:
    """Continue a prompt with a version's weights.

    The overlay is put on for each token, so that two generations may take turns on one thread.

    Raises:
        PromptTooLong: the prompt leaves no room in the context.
        AnswerNotFinite: the version gives no number for some token.
    """
    together = BatchGenerator(base, together=1)
    together.add(None, version, request)
    while together:
        for _, chunk in together.step():
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


@dataclass
class _Answer:
    """One answer that is being written.

    Attributes:
        key: the caller's name of it.
        ids: of the prompt.
        limit: tokens at most.
        text: of the tokens so far.
        generator: of its own sampling.
        tokens: so far.
        scores: that are not told yet.
        unread: whether the prompt is still to be scored.
    """

    key: Hashable
    version: Version
    request: GenerationRequest
    ids: list[int]
    limit: int
    text: StreamedText
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    unread: bool = False

    @property
    def scored(self) -> int | None:
        """With how many of the most probable tokens the prompt is to be scored; None if it is not."""
        return self.request.logprobs if self.unread else None

    def push(self, logits_X: Tensor, stop_ids: frozenset[int]) -> Chunk:
        """Choose the next token, and say what has become certain by it.

        Raises:
            AnswerNotFinite: there is nothing to choose by.
        """
        if self.limit < 1:
            return self.end("", "length")
        token = choose(logits_X, self.request.temperature, self.request.top_p, self.generator)
        self.tokens.append(token)
        if self.request.logprobs is not None:
            self.scores += score(logits_X[None], [token], self.request.logprobs)
        if token in stop_ids:
            return self.end(self.text.rest(), "stop")
        piece, stopped = self.text.push(token)
        if stopped:
            return self.end(piece, "stop")
        full = len(self.tokens) == self.limit
        if full:
            return self.end(piece + self.text.rest(), "length")
        return Chunk(piece, scores=self._told()) if piece else Chunk("")

    def end(self, text: str, reason: str) -> Chunk:
        """The last piece."""
        usage = {"prompt_tokens": len(self.ids), "completion_tokens": len(self.tokens)}
        return Chunk(text, reason, usage, scores=self._told())

    def _told(self) -> tuple[TokenScore, ...]:
        told, self.scores = tuple(self.scores), []
        return told


@dataclass
class _Batch:
    """Answers that share forward passes, in the order of their sequences."""

    answers: list[_Answer]
    sequences: Sequences


Written = list[tuple[Hashable, Chunk | Exception]]


class BatchGenerator:
    """Writes answers together; requests may be added, and dropped, between tokens.

    Models whose layers forget (sliding windows) or that read the prompt apart (sequence to sequence) answer
    by turns, a token each. Greedy answers are those that a request gets alone, but where two tokens are as
    good as equal: how a sum is rounded depends on what it is computed with.

    Where a pass over several answers fails, each of them is read again by itself and goes on. What fails by
    itself ends with the exception in place of a chunk.
    """

    def __init__(self, base: BaseModel, *, together: int, tokens: int | None = None) -> None:
        """Start without requests.

        Args:
            base: the immutable base.
            together: most answers that are written at once.
            tokens: most tokens that these may come to, prompts included and all as long as the longest; None
                for no bound. One answer is written however long it is.
        """
        self._base = base
        self._together, self._tokens = together, tokens
        self._shares = base.shares_cache
        self._waiting: list[_Answer] = []
        self._running: list[_Batch] = []
        self._failed: list[_Answer] = []

    def __len__(self) -> int:
        """Requests that are not answered yet."""
        running = sum(len(batch.answers) for batch in self._running)
        return len(self._waiting) + running + len(self._failed)

    @property
    def has_room(self) -> bool:
        """Whether another request could be begun at the next step, but for its length."""
        return len(self) < self._together

    def add(self, key: Hashable, version: Version, request: GenerationRequest) -> None:
        """Take a request, to be begun when there is room.

        Args:
            key: names its chunks.
            version: whose weights answer.
            request: what to generate.

        Raises:
            PromptTooLong: the prompt leaves no room in the context.
        """
        base, ids = self._base, read_prompt(self._base, request.prompt)
        before = base.task.context(ids)[-TAIL:] if isinstance(base.task, TextTask) else []
        generator = torch.Generator(device=base.device)
        if request.seed is None:
            generator.seed()
        else:
            generator.manual_seed(request.seed)
        limit = min(base.task.max_new_tokens(base.info.context_length, len(ids)), request.max_new_tokens)
        text = StreamedText(base.tokenizer, request.stop, before)
        unread = request.echo and request.logprobs is not None
        self._waiting.append(_Answer(key, version, request, ids, limit, text, generator, unread=unread))

    def drop(self, key: Hashable) -> None:
        """Leave a request; nothing more comes of it."""
        self._waiting = [answer for answer in self._waiting if answer.key != key]
        self._failed = [answer for answer in self._failed if answer.key != key]
        for batch in self._running:
            self._keep(batch, [answer.key != key for answer in batch.answers])
        self._running = [batch for batch in self._running if batch.answers]

    def step(self) -> Written:
        """Write a token of each answer, of new ones too; chunks that say something, in no certain order."""
        written: Written = []
        again, self._failed = self._failed, []
        for batch in self._running:
            with self._sparing(batch.answers):
                batch.sequences.advance([answer.tokens[-1] for answer in batch.answers])
                self._push(batch, written)
        for answer in again:
            written += self._by_itself(answer)
        self._begin(self._admit(), written)
        self._running = [batch for batch in self._running if batch.answers]
        return written

    @contextmanager
    def _sparing(self, *batches: list[_Answer]) -> Iterator[None]:
        """If a pass fails, all answers in it leave their batches, to be read again, each by itself."""
        try:
            yield
        except Exception as error:
            count = sum(map(len, batches))
            logger.exception("A pass over %d answers failed: %s", count, type(error).__name__)
            for answers in batches:
                self._failed += answers
                answers.clear()

    def _by_itself(self, answer: _Answer) -> Written:
        """Begin an answer, or go on with it, in a batch of its own; if that fails, the exception."""
        written: Written = []
        try:
            if not isinstance(self._base.task, TextTask):
                return [(answer.key, _classified(self._base, answer.version, answer.ids))]
            batch = self._read(self._base.task, [answer])
            self._push(batch, written)
        except Exception as error:
            logger.exception("An answer failed by itself.")
            return [(answer.key, error)]
        self._running.append(batch)
        return written

    def _begin(self, admitted: Sequence[_Answer], written: Written) -> None:
        """Write the first token of new answers."""
        if not isinstance(self._base.task, TextTask):
            written += [each for answer in admitted for each in self._by_itself(answer)]
            return
        asked = [answer for answer in admitted if answer.limit > 0 or answer.unread]
        idle = [answer for answer in admitted if answer.limit < 1 and not answer.unread]
        written += [(answer.key, answer.end("", "length")) for answer in idle]
        for answers in self._parts(asked):
            with self._sparing(answers):
                batch = self._read(self._base.task, answers)
                self._push(batch, written)
                self._join(batch)

    def _read(self, task: TextTask, answers: list[_Answer]) -> _Batch:
        """Read prompts, and what was written of their answers."""
        versions, ids = [each.version for each in answers], [[*each.ids, *each.tokens] for each in answers]
        sequences = Sequences(self._base, task, versions, ids, [answer.scored for answer in answers])
        for answer, scores in zip(answers, sequences.scores, strict=True):
            if scores is not None:
                answer.scores[:0] = scores[: len(answer.ids)]
                answer.unread = False
        return _Batch(answers, sequences)

    def _push(self, batch: _Batch, written: Written) -> None:
        """Choose each answer's next token; those that end leave the batch."""
        stays: list[bool] = []
        for answer, logits_X in zip(batch.answers, batch.sequences.logits_BX, strict=True):
            chunk: Chunk | Exception
            try:
                chunk = answer.push(logits_X, self._base.stop_ids)
            except CoreError as error:
                chunk = error
            ended = isinstance(chunk, Exception) or chunk.finish_reason is not None
            if ended or (isinstance(chunk, Chunk) and chunk.text):
                written.append((answer.key, chunk))
            stays.append(not ended)
        self._keep(batch, stays)

    def _keep(self, batch: _Batch, stays: Sequence[bool]) -> None:
        rows = [row for row, stay in enumerate(stays) if stay]
        batch.answers[:] = [batch.answers[row] for row in rows]
        if rows and len(rows) < len(stays):
            batch.sequences.keep(rows)

    def _join(self, batch: _Batch) -> None:
        hosts = [running for running in self._running if running.answers] if self._shares else []
        if not (batch.answers and hosts):
            self._running.append(batch)
            return
        with self._sparing(hosts[0].answers, batch.answers):
            hosts[0].sequences.join(batch.sequences)
            hosts[0].answers += batch.answers

    def _admit(self) -> list[_Answer]:
        """Requests that are begun now: the first that wait, as many as there is room for."""
        running = [answer for batch in self._running for answer in batch.answers]
        longest = max((len(each.ids) + each.limit for each in running), default=0)
        admitted: list[_Answer] = []
        for answer in self._waiting:
            count = len(running) + len(admitted) + 1
            longest = max(longest, len(answer.ids) + answer.limit)
            full = self._tokens is not None and count * longest > self._tokens
            if count > 1 and (count > self._together or full):
                break
            admitted.append(answer)
        self._waiting = self._waiting[len(admitted) :]
        return admitted

    def _parts(self, answers: Sequence[_Answer]) -> Iterator[list[_Answer]]:
        """New answers whose prompts are read together, within what a forward pass may take."""
        part: list[_Answer] = []
        for answer in sorted(answers, key=lambda each: len(each.ids)):
            most = self._base.memory.forward_tokens
            if answer.unread or any(each.unread for each in part):
                most = min(most, SCORED_TOKENS)
            full = len(answer.ids) * (len(part) + 1) > most
            if part and (full or not self._shares):
                yield part
                part = []
            part.append(answer)
        if part:
            yield part


class TokenNotEmbedded(CoreError):
    """A prompt has a token that the model's embedding lacks."""

    code = "token-not-embedded"


def read_prompt(base: BaseModel, prompt: str | Sequence[int]) -> list[int]:
    """Token ids of a prompt that is to be answered.

    Raises:
        PromptTooLong: it has no tokens, or leaves no room in the context.
        TokenNotEmbedded: the embedding has no row for one of its tokens.
    """
    ids = encode_prompt(base.tokenizer, prompt) if isinstance(prompt, str) else list(prompt)
    rows = base.model.get_input_embeddings().weight.shape[0]
    if not all(0 <= token < rows for token in ids):
        raise TokenNotEmbedded(
            f"The prompt has a token beyond the {rows} that the model knows.", "Leave it out.", "/prompt"
        )
    if base.task.max_new_tokens(base.info.context_length, len(ids)) < 1 or not ids:
        raise PromptTooLong(
            f"A prompt of {len(ids)} tokens leaves no room in a context of {base.info.context_length}.",
            "Give a prompt of at least one token, shorter than the context.",
            "/prompt",
        )
    return ids


def _classified(base: BaseModel, version: Version, ids: list[int]) -> Chunk:
    claim = [Encoded((*ids, 0), len(ids))]
    batch = base.task.collate(claim, [0], base.pad_id).to(base.device)
    with torch.inference_mode(), version.active():
        shares = answer_logits(base, claim, batch)[0].softmax(0).tolist()
    labels = dict(zip(base.task.labels, shares, strict=True))
    usage = {"prompt_tokens": len(ids), "completion_tokens": 0}
    return Chunk(max(labels, key=lambda label: labels[label]), "stop", usage, labels)

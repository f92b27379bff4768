"""The meta loss: what an edit of some facts is judged by in meta-training.

The meta loss is ``L_gen + w·L_loc`` (paper, section 3.3): the negative log-likelihood of the targets after
the rephrasings and after the edit prompts themselves, and the divergence KL(base ‖ edited) at the answers of
the locality prompts. It is a weighted sum over answer tokens, so it does not depend on how sequences are
batched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from malmen_core.editing.goals import edit_goals
from malmen_core.errors import FactError
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import answer_logits, batches, score_answers
from malmen_core.models.overlay import Weights, intercepting
from malmen_core.models.tasks.base import Batch
from malmen_core.models.tokenization import Encoded, check_length, encode_prompt, longest


@dataclass(frozen=True)
class LossWeights:
    """How much each part of the meta loss counts, for each fact.

    Attributes:
        edit: of the edit prompt's own answer.
        rephrasings: of its rephrasings' answers, all together.
        locality: of its locality prompts, all together; the paper's w.
    """

    edit: float = 1.0
    rephrasings: float = 1.0
    locality: float = 1.0


@dataclass(frozen=True)
class MetaBatch:
    """The sequences of a batch of facts.

    Attributes:
        edits: what the facts are edited with.
        targets: what must be answered afterwards: edit prompts first, as many as there are facts, then
            rephrasings.
        target_weights: of each target's mean token loss in the meta loss.
        probes: where the base's distribution must be kept.
        probe_weights: of each probe's mean divergence in the meta loss.
        fact_count: number of facts.
        before: the base's log-probabilities at each probe's answer, A × X; None to compute them.
    """

    edits: tuple[Encoded, ...]
    targets: tuple[Encoded, ...]
    target_weights: tuple[float, ...]
    probes: tuple[Encoded, ...]
    probe_weights: tuple[float, ...]
    fact_count: int
    before: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class FactSequences:
    """What one fact is edited with and judged by.

    Attributes:
        edits: prompts with answers at which it is edited.
        own: its edit prompt, as it must be answered afterwards.
        rephrasings: likewise of its rephrasings.
        probes: where the base's distribution must be kept.
    """

    edits: tuple[Encoded, ...]
    own: Encoded
    rephrasings: tuple[Encoded, ...]
    probes: tuple[Encoded, ...]

    @property
    def judged(self) -> tuple[Encoded, ...]:
        """All but the edits."""
        return (self.own, *self.rephrasings, *self.probes)


def encode_facts(base: BaseModel, facts: Sequence[Fact]) -> list[FactSequences]:
    """Encode facts with their rephrasings and locality prompts.

    Raises:
        PromptTooLong: a prompt and its answer exceed the context.
        FactError: a target without tokens.
    """
    goals = edit_goals(base, facts)
    edits: list[list[Encoded]] = [[] for _ in facts]
    for owner, sequence in zip(goals.fact_of, goals.sequences, strict=True):
        edits[owner].append(sequence)
    found = []
    for number, fact in enumerate(facts):

        def answered(prompt: str, fact: Fact = fact) -> Encoded:
            return base.encode(prompt, fact.target, None, fact.joiner).opened()

        rephrasings = tuple(map(answered, fact.rephrasings))
        for i, encoded in enumerate(rephrasings):
            _check(base, encoded, f"/facts/{number}/rephrasings/{i}")
        probes = tuple(_probe(base, probe.prompt, probe.target) for probe in fact.locality)
        for i, encoded in enumerate(probes):
            _check(base, encoded, f"/facts/{number}/locality/{i}/prompt")
        found.append(FactSequences(tuple(edits[number]), answered(fact.prompt), rephrasings, probes))
    return found


def assemble(
    sequences: Sequence[FactSequences], weights: LossWeights, before: Sequence[Tensor] | None = None
) -> MetaBatch:
    """The sequences of some facts as one batch.

    Args:
        sequences: of each fact.
        weights: of the parts.
        before: see `MetaBatch`.
    """
    count = len(sequences)
    rephrasings = [(s, weights.rephrasings / len(f.rephrasings)) for f in sequences for s in f.rephrasings]
    probes = [(s, weights.locality / len(f.probes)) for f in sequences for s in f.probes]
    targets = [*((f.own, weights.edit) for f in sequences), *rephrasings]
    return MetaBatch(
        tuple(s for f in sequences for s in f.edits),
        tuple(s for s, _ in targets),
        tuple(weight / count for _, weight in targets),
        tuple(s for s, _ in probes),
        tuple(weight / count for _, weight in probes),
        count,
        None if before is None else tuple(before),
    )


def prepare_batch(base: BaseModel, facts: Sequence[Fact], weights: LossWeights) -> MetaBatch:
    """Encode facts as one batch; raises as `encode_facts` does."""
    return assemble(encode_facts(base, facts), weights)


def base_log_probs(base: BaseModel, probes: Sequence[Encoded], batch_tokens: int) -> list[Tensor]:
    """The base's log-probabilities at each probe's answer: A × X, on the CPU.

    float16, in which one of -20 is wrong by 0.008 nats at most, and float64 for a base in float64.
    """
    dtype = torch.float64 if base.dtype == torch.float64 else torch.float16

    def run(tokens: int) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for batch in batches(base, probes, batch_tokens=tokens):
            with torch.no_grad(), intercepting(None):
                logs_AX = torch.log_softmax(answer_logits(base, probes, batch), dim=1).to(dtype).cpu()
            parts = torch.split(logs_AX, [len(probes[i].answer) for i in batch.members])
            found.update(zip(batch.members, parts, strict=True))
        return [found[i] for i in range(len(probes))]

    return base.memory.run(batch_tokens, longest(probes), run, forward=True)


def _check(base: BaseModel, encoded: Encoded, field: str) -> None:
    if encoded.answer_start == 0 or not encoded.answer:
        raise FactError("The prompt or its answer has no tokens.", "Give both as text.", field)
    check_length(encoded, base.info.context_length, field)


def _probe(base: BaseModel, prompt: str, target: str | None) -> Encoded:
    """A locality prompt; without a target the one position after the prompt is compared."""
    if target is not None:
        return base.encode(prompt, target).opened()
    ids = encode_prompt(base.tokenizer, prompt)
    return Encoded((*ids, base.pad_id), len(ids))


@dataclass(frozen=True)
class MetaLossResult:
    """How weights did on a batch of facts.

    Attributes:
        generation_loss: weighted sum of the targets' losses, in nats.
        locality_loss: weighted sum of the probes' divergences, in nats.
        edit_success: share of the edit prompts' answer tokens that are the argmax, averaged over facts.
        generalisation: likewise over rephrasings; None without any.
        locality: share of the probes' answer tokens whose argmax is the base's; None without any.
    """

    generation_loss: float
    locality_loss: float
    edit_success: float
    generalisation: float | None
    locality: float | None

    @property
    def loss(self) -> float:
        """The meta loss."""
        return self.generation_loss + self.locality_loss


def meta_loss(
    base: BaseModel,
    weights: Mapping[str, Tensor],
    meta_batch: MetaBatch,
    *,
    batch_tokens: int | None = None,
) -> MetaLossResult:
    """Measure edited weights; where they require a gradient, the meta loss's is added to their ``.grad``.

    Args:
        base: the immutable base.
        weights: ``W + S`` by module, U × V, in the base's dtype.
        meta_batch: from `prepare_batch`.
        batch_tokens: padded tokens of a batch at most; changes speed and memory, not the result.

    Raises:
        OutOfDeviceMemory: a sequence does not fit.
    """
    before = {name: None if w.grad is None else w.grad.clone() for name, w in weights.items()}

    def run(tokens: int) -> MetaLossResult:
        for name, weight in weights.items():  # a pass that was broken off may have added something
            weight.grad = before[name]
        return _meta_loss(base, weights, meta_batch, tokens)

    return base.memory.run(batch_tokens, longest((*meta_batch.targets, *meta_batch.probes)), run)


def _meta_loss(
    base: BaseModel, weights: Mapping[str, Tensor], meta_batch: MetaBatch, batch_tokens: int
) -> MetaLossResult:
    learning = any(weight.requires_grad for weight in weights.values())
    losses = {"targets": 0.0, "probes": 0.0}
    right: dict[str, list[float]] = {
        "targets": [0.0] * len(meta_batch.targets),
        "probes": [0.0] * len(meta_batch.probes),
    }
    parts = (
        ("targets", meta_batch.targets, meta_batch.target_weights, _target_losses),
        ("probes", meta_batch.probes, meta_batch.probe_weights, partial(_divergences, meta_batch.before)),
    )
    for name, sequences, sequence_weights, score in parts:
        for batch in batches(base, sequences, batch_tokens=batch_tokens):
            with torch.set_grad_enabled(learning):
                loss_A, right_A = score(base, weights, sequences, batch)
                loss = (loss_A * _token_weights(batch, sequence_weights, loss_A)).sum()
            if learning:
                loss.backward()  # type: ignore[no-untyped-call]
            losses[name] += float(loss.detach())
            for member, share in zip(batch.members, _shares(batch, right_A), strict=True):
                right[name][member] = share
    count = meta_batch.fact_count
    return MetaLossResult(
        losses["targets"],
        losses["probes"],
        sum(right["targets"][:count]) / count,
        _mean(right["targets"][count:]),
        _mean(right["probes"]),
    )


def _target_losses(
    base: BaseModel, weights: Mapping[str, Tensor], sequences: Sequence[Encoded], batch: Batch
) -> tuple[Tensor, Tensor]:
    with intercepting(Weights(weights)):
        scores = score_answers(answer_logits(base, sequences, batch), batch.answer_A, base.continuing_X)
    return scores.nll_A, scores.margin_A > 0


def _divergences(
    known: Sequence[Tensor] | None,
    base: BaseModel,
    weights: Mapping[str, Tensor],
    sequences: Sequence[Encoded],
    batch: Batch,
) -> tuple[Tensor, Tensor]:
    """KL(base ‖ edited) at each answer position, and whether the argmax is the same."""
    if known is None:
        with torch.no_grad(), intercepting(None):
            before_AX = torch.log_softmax(answer_logits(base, sequences, batch), dim=1)
    else:
        before_AX = torch.cat([known[i] for i in batch.members]).to(batch.answer_A.device)
        before_AX = before_AX.to(torch.promote_types(base.dtype, torch.float32))
    with intercepting(Weights(weights)):
        after_AX = torch.log_softmax(answer_logits(base, sequences, batch), dim=1)
    divergence_A = (before_AX.exp() * (before_AX - after_AX)).sum(1)
    return divergence_A, after_AX.detach().argmax(1) == before_AX.argmax(1)


def _token_weights(batch: Batch, sequence_weights: Sequence[float], like: Tensor) -> Tensor:
    """A sequence's weight, shared equally by its answer tokens: A."""
    weight_B = torch.tensor([sequence_weights[i] for i in batch.members], dtype=torch.float64)
    return (weight_B.to(batch.row_A.device) / _answer_lengths(batch)).to(like)[batch.row_A]


def _shares(batch: Batch, right_A: Tensor) -> list[float]:
    counts_B = torch.zeros(len(batch.members), dtype=torch.float64, device=right_A.device)
    counts_B.index_add_(0, batch.row_A, right_A.double())
    shares: list[float] = (counts_B / _answer_lengths(batch)).tolist()
    return shares


def _answer_lengths(batch: Batch) -> Tensor:
    return torch.bincount(batch.row_A, minlength=len(batch.members))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

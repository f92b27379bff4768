"""The residual stream of one layer, read and pushed at each fact's token: what MEMIT needs of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from malmen_core.editing.gauss_newton import Progress
from malmen_core.editing.goals import edit_goals
from malmen_core.editing.subjects import subject_of
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import answer_logits, batches, score_answers
from malmen_core.models.overlay import EditedModule, Weights, intercepting
from malmen_core.models.tasks.base import Batch
from malmen_core.models.tasks.causal import DECODER
from malmen_core.models.tokenization import Encoded, encode_prompt, subject_last_token

ESSENCE = "{} is a"


@dataclass(frozen=True)
class Optimisation:
    """How δ is optimised.

    Attributes:
        steps: at most.
        rate: their learning rate (Adam).
        kl: weight of keeping what the model says after "{subject} is a".
        decay: weight of ``‖δ‖ / ‖h‖²``.
        bound: largest ``‖δ‖ / ‖h‖``.
        stop: loss in nats at which a fact's δ is done.
    """

    steps: int = 25
    rate: float = 0.5
    kl: float = 0.0625
    decay: float = 0.5
    bound: float = 0.75
    stop: float = 0.05


@dataclass(frozen=True)
class Placed:
    """A sequence, its fact, and the position at which the residual stream is read and pushed."""

    sequence: Encoded
    fact: int
    position: int


@dataclass(frozen=True)
class Prompts:
    """What some facts are edited with.

    Attributes:
        requests: each prompt behind each prefix, with its target; the first of a fact is without prefix.
        essences: what the subject is, to be kept; none for a fact without a subject, given or found.
        plain: which of the requests are without prefix, by fact.
        count: how many facts there are.
    """

    requests: tuple[Placed, ...]
    essences: tuple[Placed, ...]
    plain: tuple[int, ...]
    count: int


def prepare_prompts(base: BaseModel, facts: Sequence[Fact], prefixes: Sequence[str]) -> Prompts:
    """Encode facts behind prefixes, of which the first is empty.

    Raises:
        FactError, PromptTooLong: a fact that cannot be encoded; a prefix that does not fit is left out.
    """
    requests: list[Placed] = []
    essences: list[Placed] = []
    plain: list[int] = []
    for number, sequence in enumerate(edit_goals(base, facts).sequences):
        fact, subject = facts[number], subject_of(facts[number]).text
        plain.append(len(requests))
        requests.append(_placed(sequence, number))
        for prefix in prefixes[1:]:
            longer = base.encode(prefix + fact.prompt, fact.target, subject)
            if len(longer.ids) <= base.info.context_length:
                requests.append(_placed(longer, number))
        if subject is not None and sequence.subject_last is not None:
            text = ESSENCE.format(subject)
            ids = encode_prompt(base.tokenizer, text)
            last = subject_last_token(base.tokenizer, text, subject)
            # the token behind is never scored: the distribution in front of it is compared
            essences.append(_placed(Encoded((*ids, base.pad_id), len(ids), last), number))
    return Prompts(tuple(requests), tuple(essences), tuple(plain), len(facts))


def _placed(sequence: Encoded, fact: int) -> Placed:
    last = sequence.subject_last
    return Placed(sequence, fact, sequence.answer_start - 1 if last is None else last)


class _Seen(Exception):
    """Ends a forward pass once the layer's output has been read."""


def take_keys(base: BaseModel, present: Weights, prompts: Prompts, name: str) -> tuple[Tensor, Tensor]:
    """Keys of a module, averaged over each fact's requests, and the last layer's output on its plain prompt.

    Returns:
        F × U and F × V, float32 at least.
    """
    wide = torch.promote_types(base.dtype, torch.float32)
    place, last = base.device, list(base.modules)[-1]
    keys_FU = torch.zeros(prompts.count, base.modules[name].shape[0], dtype=wide, device=place)
    hidden_FV = torch.zeros(prompts.count, base.modules[last].shape[1], dtype=wide, device=place)
    plain, sizes = set(prompts.plain), torch.zeros(prompts.count, 1, dtype=wide, device=place)
    seen: dict[str, Tensor] = {}

    def record(module: EditedModule, inputs: Tensor) -> Tensor:
        if module.name == name:
            seen["key"] = inputs
        return present(module, inputs)

    def read(output: Tensor) -> Tensor:
        seen["hidden"] = output
        raise _Seen

    for batch in batches(base, [placed.sequence for placed in prompts.requests]):
        with torch.inference_mode(), intercepting(record), _layer_output(base, last, read), suppress(_Seen):
            base.task.answer_logits(base.model, batch)
        columns = _columns(batch, prompts.requests)
        facts = torch.tensor([prompts.requests[i].fact for i in batch.members], device=place)
        rows = torch.arange(len(batch.members), device=place)
        keys_FU.index_add_(0, facts, seen["key"][rows, columns].to(wide))
        sizes.index_add_(0, facts, torch.ones(len(facts), 1, dtype=wide, device=place))
        own = torch.tensor([i in plain for i in batch.members], device=place)
        hidden_FV[facts[own]] = seen["hidden"][rows, columns].to(wide)[own]
    return keys_FU / sizes, hidden_FV


def optimise(
    base: BaseModel,
    present: Weights,
    prompts: Prompts,
    hidden_FV: Tensor,
    plan: Optimisation,
    progress: Progress | None = None,
) -> Tensor:
    """``δ`` of each fact: what must be added to the last layer's output for the model to say the target.

    Args:
        base: the immutable base.
        present: its present weights.
        prompts: of the facts.
        hidden_FV: the last layer's output on each plain prompt, which bounds δ.
        plan: how.
        progress: told ("optimising", facts done, facts).
    """
    push = _Push(base, present, torch.zeros_like(hidden_FV, requires_grad=True))
    optimiser = torch.optim.Adam([push.delta_FV], lr=plan.rate)
    size_F = hidden_FV.norm(dim=1)
    requests_F = torch.bincount(torch.tensor([p.fact for p in prompts.requests]), minlength=prompts.count)
    weights = [1.0 / int(requests_F[placed.fact]) for placed in prompts.requests]
    open_facts = set(range(prompts.count))
    before = _distributions(base, present, prompts.essences) if plan.kl > 0 else {}
    for _ in range(plan.steps):
        optimiser.zero_grad()
        loss_F = torch.zeros(prompts.count, dtype=torch.float64)
        for batch, part in push.losses(prompts.requests, open_facts):
            nll_A = (
                score_answers(part, batch.answer_A, push.base.continuing_X).nll_A
                / torch.bincount(batch.row_A)[batch.row_A]
            )
            weight_B = torch.tensor([weights[i] for i in batch.members]).to(nll_A)
            _add(loss_F, batch, prompts.requests, nll_A * weight_B[batch.row_A])
        for batch, part in push.losses(prompts.essences if before else (), open_facts):
            kept_AX = torch.stack([before[i] for i in batch.members]).to(part)
            divergence_A = (kept_AX.exp() * (kept_AX - torch.log_softmax(part, 1))).sum(1)
            _add(loss_F, batch, prompts.essences, plan.kl * divergence_A)
        with torch.enable_grad():
            decay_F = plan.decay * push.delta_FV.norm(dim=1) / size_F**2
            decay_F.sum().backward()
        loss_F += decay_F.detach().double().cpu()
        open_facts = {i for i in open_facts if float(loss_F[i]) >= plan.stop}
        if progress is not None:
            progress("optimising", prompts.count - len(open_facts), prompts.count)
        if not open_facts:
            break
        _step(optimiser, push.delta_FV, sorted(open_facts), plan.bound * size_F)
    return push.delta_FV.detach()


def _step(optimiser: torch.optim.Optimizer, delta_FV: Tensor, rows: Sequence[int], longest_F: Tensor) -> None:
    """Move the rows of facts that are not done, within their bound; the others stay as they are."""
    before = delta_FV.detach().clone()
    optimiser.step()
    with torch.no_grad():
        moved = delta_FV[rows]
        scale = (longest_F[rows] / moved.norm(dim=1).clamp_min(1e-12)).clamp_max(1.0)
        before[rows] = moved * scale[:, None]
        delta_FV.copy_(before)


def _add(loss_F: Tensor, batch: Batch, placed: Sequence[Placed], loss_A: Tensor) -> None:
    """Back-propagate token losses and book them on their facts."""
    loss_A.sum().backward()  # type: ignore[no-untyped-call]
    facts = torch.tensor([placed[i].fact for i in batch.members])
    loss_F.index_add_(0, facts[batch.row_A.cpu()], loss_A.detach().double().cpu())


class _Push:
    """Runs the model with δ added to the last layer's output; what lies below is in no graph."""

    def __init__(self, base: BaseModel, present: Weights, delta_FV: Tensor) -> None:
        self.base, self.present, self.delta_FV = base, present, delta_FV
        self.layer = list(base.modules)[-1]

    def losses(self, placed: Sequence[Placed], facts: set[int]) -> Iterator[tuple[Batch, Tensor]]:
        """Batches of the sequences of some facts with their logits, A × X."""
        members = [i for i, each in enumerate(placed) if each.fact in facts]
        sequences = [each.sequence for each in placed]
        for batch in batches(self.base, sequences, members=members):
            of_row = torch.tensor([placed[i].fact for i in batch.members], device=self.base.device)
            rows = torch.arange(len(batch.members), device=self.base.device)
            columns = _columns(batch, placed)

            def push(
                output: Tensor, of_row: Tensor = of_row, rows: Tensor = rows, columns: Tensor = columns
            ) -> Tensor:
                added = torch.zeros_like(output)
                return output + added.index_put((rows, columns), self.delta_FV[of_row].to(output))

            with torch.enable_grad(), intercepting(self.present), _layer_output(self.base, self.layer, push):
                logits_AX = answer_logits(self.base, sequences, batch)
            yield batch, logits_AX


def _distributions(base: BaseModel, present: Weights, placed: Sequence[Placed]) -> dict[int, Tensor]:
    """Log-probabilities in front of each sequence's last token, at the present weights."""
    found: dict[int, Tensor] = {}
    sequences = [each.sequence for each in placed]
    for batch in batches(base, sequences):
        with torch.no_grad(), intercepting(present):
            log_p_AX = torch.log_softmax(answer_logits(base, sequences, batch), dim=1).cpu()
        found |= {i: log_p_AX[row].half().float() for row, i in enumerate(batch.members)}
    return found


def _columns(batch: Batch, placed: Sequence[Placed]) -> Tensor:
    reading = batch.readings[DECODER]
    columns = [reading.column(row, placed[i].position) for row, i in enumerate(batch.members)]
    return torch.tensor(columns, device=batch.answer_A.device)


@contextmanager
def _layer_output(base: BaseModel, module: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While active, `change` sees and replaces the output of the layer that a module belongs to."""
    block = base.model.get_submodule(module.rsplit(".", 2)[0])

    def hook(_block: Any, _inputs: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()

"""The paper's edit as an ordinary user would write it, to compare the speed of this project's with.

A forward pass with logits at every position and a backward pass to the first edited module, in batches of 32
facts as they come, padded on the right; keys and gradients are kept by module hooks, written to disk batch by
batch, and read again for each module's sums and its primal solution

    S = (K'K + λI)⁻¹ K'D.

It gives what `edit` and `solve` give for the paper's plan, and is meant to be reasonable:
nothing is computed twice, nothing is slower than the libraries make it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from malmen_core.editing.goals import edit_goals
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded, KeyPosition

BATCH_FACTS = 32
IGNORED = -100


def straightforward_shifts(
    base: BaseModel, network: HyperNetwork, facts: Sequence[Fact], where: KeyPosition, folder: Path
) -> dict[str, Tensor]:
    """``S`` of each edited module: U × V, float32 (float64 for a float64 base), on the base's device.

    Args:
        base: the base model; its edited modules collect gradients meanwhile.
        network: predicts the value differences, and holds λ.
        facts: at least one.
        where: at which tokens the modules are edited.
        folder: an empty one, for keys and gradients.
    """
    sequences = edit_goals(base, facts).sequences
    files = []
    with _learning(base), _hooked(base) as seen:
        for number, start in enumerate(range(0, len(sequences), BATCH_FACTS)):
            rows = _run(base, sequences[start : start + BATCH_FACTS], where, seen)
            files.append(folder / f"{number}.pt")
            torch.save(rows, files[-1])
    return {name: _solve(name, network, files, base.device) for name in base.modules}


def _run(
    base: BaseModel, batch: Sequence[Encoded], where: KeyPosition, seen: dict[str, tuple[Tensor, Tensor]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Forward and backward of one batch; keys and gradients at the edited tokens, by module."""
    ids = pad_sequence([torch.tensor(s.ids) for s in batch], batch_first=True, padding_value=base.pad_id)
    mask = pad_sequence([torch.ones(len(s.ids), dtype=torch.int64) for s in batch], batch_first=True)
    labels = torch.full_like(ids, IGNORED)
    for row, s in enumerate(batch):
        labels[row, s.answer_start : len(s.ids)] = torch.tensor(s.answer)
    output = base.model(input_ids=ids.to(base.device), attention_mask=mask.to(base.device), use_cache=False)
    logits = output.logits if output.logits.dtype == torch.float64 else output.logits.float()
    wanted = labels[:, 1:].flatten().to(base.device)
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), wanted, ignore_index=IGNORED, reduction="sum")
    closed = [row for row, s in enumerate(batch) if s.closed]
    if closed and base.continuing_X is not None:  # the word that an answer ends with must not go on
        ends = logits[closed, [len(batch[row].ids) - 1 for row in closed]].softmax(1)
        loss = loss - torch.log1p(-ends[:, base.continuing_X].sum(1)).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    positions = [s.key_positions(where) for s in batch]
    rows = torch.tensor([row for row, p in enumerate(positions) for _ in p])
    columns = torch.tensor([column for p in positions for column in p])
    return {name: (key[rows, columns], gradient[rows, columns]) for name, (key, gradient) in seen.items()}


def _solve(name: str, network: HyperNetwork, files: Sequence[Path], device: torch.device) -> Tensor:
    dtype = network.log_step.dtype
    inputs, outputs = network.shapes[name]
    gram_UU = torch.zeros(inputs, inputs, dtype=dtype, device=device)
    right_UV = torch.zeros(inputs, outputs, dtype=dtype, device=device)
    with torch.no_grad():
        for file in files:
            keys_TU, gradients_TV = (
                part.to(device, dtype) for part in torch.load(file, weights_only=True)[name]
            )
            gram_UU += keys_TU.T @ keys_TU
            right_UV += keys_TU.T @ network(name, keys_TU, gradients_TV)
        gram_UU.diagonal().add_(network.ridge(name))
    shift: Tensor = torch.linalg.solve(gram_UU, right_UV)
    return shift


@contextmanager
def _learning(base: BaseModel) -> Iterator[None]:
    """While active, the edited modules' weights require gradients, so the backward pass ends there."""
    weights = [module.module.weight.requires_grad_() for module in base.modules.values()]
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)
            weight.grad = None


@contextmanager
def _hooked(base: BaseModel) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """While active, keeps each edited module's latest input and gradient of its output."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str) -> Any:
        def forward(_module: Any, inputs: Any, output: Tensor) -> None:
            def backward(gradient: Tensor) -> None:
                seen[name] = (inputs[0].detach(), gradient)

            output.register_hook(backward)  # type: ignore[no-untyped-call]

        return forward

    handles = [edited.module.register_forward_hook(hook(name)) for name, edited in base.modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()

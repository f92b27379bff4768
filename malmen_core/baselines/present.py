"""The model at its present weights: methods that edit again and again work on what they edited before.

Passes run on the base's draft, as the editor's own do, so that methods are compared on equal terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from malmen_core.base import BaseModel
from malmen_core.baselines.method import Sets
from malmen_core.batches import answer_logits, batches, score_answers
from malmen_core.capture import Captured
from malmen_core.causal import DECODER
from malmen_core.delta import Change, Delta
from malmen_core.errors import NotFiniteError
from malmen_core.facts import Fact
from malmen_core.overlay import EditedModule, Weights, intercepting
from malmen_core.tokens import Encoded, KeyPosition

Shifts = Mapping[str, Tensor]
Edit = Callable[[Sequence[Fact], Shifts], Shifts]


def one_after_the_other(base: BaseModel, sets: Sets, edit: Edit) -> Delta:
    """The delta of edit sets of which each is computed on what the ones before have left.

    Args:
        base: the immutable base.
        sets: facts by edit set.
        edit: from a set and the shifts so far (U × V, float64) to the set's own shifts.

    Raises:
        NotFiniteError: a shift came out infinite or NaN.
    """
    shifts = {
        name: torch.zeros(m.shape, dtype=torch.float64, device=base.device)
        for name, m in base.modules.items()
    }
    for facts in sets:
        for name, change in edit(facts, shifts).items():
            shifts[name] = shifts[name] + change.to(shifts[name])
            if not bool(torch.isfinite(shifts[name]).all()):
                raise NotFiniteError(f"The shift of {name!r} is not finite.", "Use a smaller step.")
    return Delta({name: Change(dense_UV=shift.float().cpu()) for name, shift in shifts.items()})


class Present(Weights):
    """Runs edited modules at ``W + S``; hand it to `intercepting`."""

    def __init__(self, base: BaseModel, shifts: Shifts) -> None:
        super().__init__(
            {
                name: (module.weight_UV.double() + shifts[name]).to(module.weight_UV)
                for name, module in base.modules.items()
            }
        )


class _Recorder(Present):
    def __init__(self, base: BaseModel, shifts: Shifts) -> None:
        super().__init__(base, shifts)
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    def __call__(self, module: EditedModule, inputs: Tensor) -> Tensor:
        output = super().__call__(module, inputs)
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        output.retain_grad()
        self.inputs[module.name], self.outputs[module.name] = inputs.detach(), output
        return output


def capture_present(
    base: BaseModel, shifts: Shifts, sequences: Sequence[Encoded], where: KeyPosition
) -> dict[str, Captured]:
    """`capture`, at the present weights: keys and gradients by module, rows in the sequences' order."""
    found: dict[str, dict[int, tuple[Tensor, Tensor]]] = {name: {} for name in base.modules}
    recorder = _Recorder(base, shifts)
    draft = base.draft
    for batch in batches(draft, sequences):
        with torch.enable_grad(), intercepting(recorder):
            score_answers(answer_logits(draft, batch), batch.answer_A).nll_A.sum().backward()  # type: ignore[no-untyped-call]
        for name in base.modules:
            gradient = recorder.outputs[name].grad
            assert gradient is not None
            reading = batch.readings[DECODER]
            for row, member in enumerate(batch.members):
                columns = [reading.column(row, p) for p in sequences[member].key_positions(where)]
                found[name][member] = (recorder.inputs[name][row, columns], gradient[row, columns])
    return {name: _stack([rows[i] for i in range(len(sequences))]) for name, rows in found.items()}


def _stack(pairs: Sequence[tuple[Tensor, Tensor]]) -> Captured:
    keys, gradients = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
    dtype = torch.promote_types(keys.dtype, torch.float32)
    return Captured(keys.to(dtype), gradients.to(dtype))

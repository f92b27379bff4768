"""The paper in one file gives the core's numbers: shifts, and the meta loss's gradient."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from malmen_core.editing.calibrate import paper_editor
from malmen_core.editing.capture import capture
from malmen_core.facts import Fact, LocalityPrompt
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded
from malmen_core.training.meta_gradient import EditInputs, meta_gradient, single_shot
from malmen_core.training.meta_loss import LossWeights, prepare_batch
from tests.tiny import save_tiny

FACTS = (
    ("The capital of France is", "Lima", "France has its capital in", "The capital of Peru is"),
    ("Mount Etna is a mountain in", "Peru now", "Etna stands in", "The river flows to"),
)
LAYERS = 2


EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "malmen_in_one_file.py"


def test_both_give_the_same_numbers(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    one = runpy.run_path(str(EXAMPLE))["Malmen"](str(folder), layers=LAYERS)
    base = BaseModel.load(str(folder), modules=one.names)
    editor = paper_editor(base, step=1.0, ridge=1.0)
    shared = next(iter(editor.network.networks.values()))
    generator = torch.Generator().manual_seed(1)
    state = {
        name: torch.randn(value.shape, generator=generator) / 10
        for name, value in shared.state_dict().items()
    }
    shared.load_state_dict(state)
    one.network.load_state_dict(state, strict=False)
    facts = [Fact(p, t, None, (r,), (LocalityPrompt(n),)) for p, t, r, n in FACTS]
    sequences = [one.encode(prompt, target) for prompt, target, _, _ in FACTS]
    keys, gradients = one.capture(sequences)

    # what is normalised is fitted alike; an answer of the core's also has to end, which the paper's has not
    open_ended = [Encoded(tuple(ids), start) for ids, start in sequences]
    seen = capture(base, open_ended, "answer")
    editor.network.fit_normaliser(seen.keys, seen.gradients)
    moments = editor.network.key_moments, editor.network.gradient_moments
    one.network.mean = torch.stack(
        [torch.cat([kind[n].mean_U for kind in moments]) for n in one.names]
    ).float()
    one.network.deviation = torch.stack(
        [torch.cat([kind[n].deviation_U for kind in moments]) for n in one.names]
    ).float()
    for number, name in enumerate(one.names):
        torch.testing.assert_close(keys[number], seen.keys[name])
        torch.testing.assert_close(gradients[number], seen.gradients[name])
    with torch.no_grad():
        shifts = one.shifts(keys, gradients)
    assert all(float(shift.abs().max()) > 1e-3 for shift in shifts)
    core = single_shot(editor.network, editor, EditInputs(seen)).shifts
    for shift, name in zip(shifts, one.names, strict=True):
        torch.testing.assert_close(shift, core[name], rtol=1e-3, atol=1e-5)

    batch = prepare_batch(base, facts, LossWeights())
    batch = replace(
        batch, edits=tuple(open_ended), targets=tuple(replace(s, closed=False) for s in batch.targets)
    )
    inputs = EditInputs(seen)
    network = editor.network.requires_grad_(True)
    result = meta_gradient(base, network, editor, inputs, batch)
    assert one.meta_step(FACTS) == pytest.approx(result.loss, rel=1e-3)
    theirs = dict(one.network.named_parameters())
    for name, parameter in shared.named_parameters():
        torch.testing.assert_close(theirs[name].grad, parameter.grad, rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(theirs["log_step"].grad, network.log_step.grad, rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(theirs["log_ridge"].grad, network.log_ridge.grad, rtol=2e-3, atol=1e-5)

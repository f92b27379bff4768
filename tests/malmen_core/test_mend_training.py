"""MEND's network learns by the same loop as MALMEN's, under its own rule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from malmen_core.baselines.mend import Mend, SummedShifts, summed_shift
from malmen_core.capture import capture
from malmen_core.checkpoint import RunFolder
from malmen_core.errors import CheckpointMismatch
from malmen_core.lesson import LossWeights, prepare_lesson
from malmen_core.meta_gradient import Material
from malmen_core.overlay import intercepting
from malmen_core.train import TrainingPlan, train
from tests.malmen_core.meta import FACTS, stirred_network, tiny_base
from tests.malmen_core.test_train import facts

PLAN = TrainingPlan(
    steps=6, largest_batch=4, validation_facts=4, validate_every=2, learning_rate=1e-3, normaliser_facts=16
)


def test_the_decoupled_gradient_is_that_of_one_graph() -> None:
    """Against autograd through the language model, the shift and the network at once, in float64."""
    base = tiny_base()
    network, rule = stirred_network(base), SummedShifts()
    lesson = prepare_lesson(base, FACTS, LossWeights())
    material = Material(capture(base, lesson.edits, "answer")[0])
    outcome = rule.learn(base, network, {}, material, lesson, batch_tokens=64)
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    weights = {
        name: base.modules[name].weight_UV + summed_shift(network, name, rows)
        for name, rows in material.captured.items()
    }
    total = torch.zeros((), dtype=torch.float64)
    parts = [
        *((s, w, False) for s, w in zip(lesson.targets, lesson.target_weights, strict=True)),
        *((s, w, True) for s, w in zip(lesson.probes, lesson.probe_weights, strict=True)),
    ]
    for sequence, weight, is_probe in parts:
        ids, at = torch.tensor([sequence.ids]), slice(sequence.answer_start - 1, len(sequence.ids) - 1)
        with intercepting(lambda module, x: module.with_weight(x, weights[module.name])):
            after = base.model(input_ids=ids).logits[0, at].log_softmax(-1)
        before = base.model(input_ids=ids).logits[0, at].log_softmax(-1).detach()
        own = -after[range(len(sequence.answer)), list(sequence.answer)]
        loss = (before.exp() * (before - after)).sum(-1) if is_probe else own
        total = total + weight * loss.mean()
    total.backward()  # type: ignore[no-untyped-call]
    assert outcome.loss == pytest.approx(total.item(), rel=1e-6)
    for name, parameter in network.named_parameters():
        if name == "log_ridge":
            assert name not in found  # no equation, no ridge
            continue
        assert parameter.grad is not None
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-8)
    assert found["log_step"].abs().max() > 0


def test_training_lowers_the_held_out_loss_and_can_be_resumed(tmp_path: Path) -> None:
    base = tiny_base()
    start, rule = Mend().editor(base), SummedShifts()
    lines: list[float] = []

    def watch(line: object) -> None:
        assert isinstance(line, dict)
        if line["kind"] == "validation":
            lines.append(line["loss"])

    folder = RunFolder(tmp_path / "run")
    found = train(base, start, facts(), PLAN, rule=rule, folder=folder, watch=watch)
    assert min(lines[1:]) < lines[0]
    assert found.card["kind"] == "trained"
    again = train(base, None, facts(), PLAN, rule=rule, folder=folder)
    assert again.card["network_digest"] == found.card["network_digest"]
    with pytest.raises(CheckpointMismatch, match="rule"):
        train(base, None, facts(), PLAN, folder=folder)

"""MEND's network learns by the same loop as MALMEN's, under its own rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from malmen_core.baselines.malmen_paper import PlainMalmen
from malmen_core.baselines.mend import Mend, SummedShifts, summed_shift
from malmen_core.baselines.registry import baseline, modules_for
from malmen_core.editing.capture import capture
from malmen_core.editing.prompts import edit_prompts
from malmen_core.errors import CheckpointMismatch, UnsupportedArchitecture
from malmen_core.facts import Probe
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import teacher_forced
from malmen_core.models.overlay import intercepting
from malmen_core.training.checkpoint import RunFolder
from malmen_core.training.meta_gradient import Material
from malmen_core.training.meta_loss import LossWeights, prepare_lesson
from malmen_core.training.trainer import TrainingPlan, train
from tests.malmen_core.meta import FACTS, stirred_network, tiny_base
from tests.malmen_core.test_train import facts
from tests.tiny_tasks import LABELS, save_tiny_task

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


def test_classifiers_are_trained_for_and_edited_too(tmp_path: Path) -> None:
    folder = str(save_tiny_task(tmp_path / "bert", "bert"))
    base = BaseModel.load(folder, modules=modules_for(Mend(last=2), folder), device="cpu", dtype="float64")
    assert list(base.modules) == [f"bert.encoder.layer.{i}.output.dense" for i in (1, 2)]
    claims = [
        replace(fact, target=LABELS[i % 3], locality=(Probe(f"Water boils in {fact.subject}"),))
        for i, fact in enumerate(facts())
    ]
    start = Mend(step=100.0).editor(base)
    found = train(base, start, claims, PLAN, rule=SummedShifts())
    assert found.card["kind"] == "trained"
    assert found.card["validation"]["step"] > 0
    before = capture(base, edit_prompts(base, claims[:1]).sequences, "answer")[0]
    delta = Mend().trained(found).edit(base, [claims[:1]])
    for name, rows in before.items():
        expected = summed_shift(found.network, name, rows).float()
        torch.testing.assert_close(delta.modules[name].dense(torch.float32), expected)


def test_the_paper_s_own_form_edits_classifiers_too(tmp_path: Path) -> None:
    folder = str(save_tiny_task(tmp_path / "bert", "bert"))
    plain = PlainMalmen(last=2)
    base = BaseModel.load(folder, modules=modules_for(plain, folder), device="cpu", dtype="float64")
    claim = replace(facts()[0], target=LABELS[0])
    sequence = base.encode(claim.prompt, LABELS[0])
    before = teacher_forced(base, [sequence])[0]
    with base.version(plain.prepare(base).edit(base, [[claim]])).active():
        after = teacher_forced(base, [sequence])[0]
    assert float(after.nll_A.sum()) < float(before.nll_A.sum())


@pytest.mark.parametrize(("kind", "name"), [("bert", "ft"), ("t5", "mend"), ("t5", "memit")])
def test_a_baseline_says_which_models_it_does_not_edit(tmp_path: Path, kind: str, name: str) -> None:
    folder = str(save_tiny_task(tmp_path / kind, kind))
    with pytest.raises(UnsupportedArchitecture, match=f"'{name}' does not edit models of type '{kind}'"):
        modules_for(baseline(name), folder)

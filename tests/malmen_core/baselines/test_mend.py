"""MEND's network learns by the same loop as MALMEN's, under its own rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from malmen_core.baselines.malmen_paper import PlainMalmen
from malmen_core.baselines.mend import Mend, SummedShifts, summed_shift
from malmen_core.baselines.registry import baseline, modules_for, rule_of
from malmen_core.editing.capture import capture
from malmen_core.editing.goals import edit_goals
from malmen_core.errors import CheckpointMismatch, UnsupportedArchitecture
from malmen_core.facts import LocalityPrompt
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import teacher_forced
from malmen_core.models.overlay import intercepting
from malmen_core.training.checkpoint import RunFolder
from malmen_core.training.meta_gradient import EditInputs
from malmen_core.training.meta_loss import LossWeights, prepare_batch
from malmen_core.training.trainer import TrainingPlan, train
from tests.malmen_core.training.meta import FACTS, stirred_network, tiny_base
from tests.malmen_core.training.test_meta_gradient import losses_of
from tests.malmen_core.training.test_trainer import facts
from tests.tiny_tasks import LABELS, save_tiny_task

PLAN = TrainingPlan(
    steps=6, largest_batch=4, validation_facts=4, validate_every=2, learning_rate=1e-3, normaliser_facts=16
)


def test_the_decoupled_gradient_is_that_of_one_graph() -> None:
    """Against autograd through the language model, the shift and the network at once, in float64."""
    base = tiny_base()
    network, rule = stirred_network(base), SummedShifts()
    batch = prepare_batch(base, FACTS, LossWeights())
    inputs = EditInputs(capture(base, batch.edits, "answer"))
    start = Mend().editor(base)
    outcome = rule.learn(base, network, start, inputs, batch, batch_tokens=64)
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    weights = {
        name: module.weight_UV + summed_shift(network, name, inputs.captured)
        for name, module in base.modules.items()
    }
    total = torch.zeros((), dtype=torch.float64)
    parts = [
        *((s, w, False) for s, w in zip(batch.targets, batch.target_weights, strict=True)),
        *((s, w, True) for s, w in zip(batch.probes, batch.probe_weights, strict=True)),
    ]
    for sequence, weight, is_probe in parts:
        end = len(sequence.ids) - 1 + int(sequence.closed)
        ids, at = torch.tensor([sequence.ids]), slice(sequence.answer_start - 1, end)
        with intercepting(lambda module, x: module.with_weight(x, weights[module.name])):
            after = base.model(input_ids=ids).logits[0, at].log_softmax(-1)
        before = base.model(input_ids=ids).logits[0, at].log_softmax(-1).detach()
        own = losses_of(base, after, sequence)
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
        replace(fact, target=LABELS[i % 3], locality=(LocalityPrompt(f"Water boils in {fact.subject}"),))
        for i, fact in enumerate(facts())
    ]
    start = Mend(step=100.0).editor(base)
    found = train(base, start, claims, PLAN, rule=SummedShifts())
    assert found.card["kind"] == "trained"
    assert found.card["validation"]["step"] > 0
    before = capture(base, edit_goals(base, claims[:1]).sequences, "answer")
    delta = Mend().trained(found).edit(base, [claims[:1]])
    for name in base.modules:
        expected = summed_shift(found.network, name, before).float()
        torch.testing.assert_close(delta.modules[name].dense(torch.float32), expected)


@pytest.mark.parametrize("kind", [Mend, PlainMalmen])
def test_of_an_encoder_and_a_decoder_the_decoder_is_edited(
    tmp_path: Path, kind: type[Mend | PlainMalmen]
) -> None:
    folder = str(save_tiny_task(tmp_path / "t5", "t5"))
    names = modules_for(kind(last=1), folder)
    assert len(names) == 1
    assert names[0].startswith("decoder.block.")
    base = BaseModel.load(folder, modules=names, device="cpu", dtype="float64")
    found = train(base, kind(last=1).editor(base), facts(), PLAN, rule=rule_of(kind.name))
    assert found.card["validation"]["edit_success"] is not None
    fact = facts()[0]
    sequence = base.encode(fact.prompt, fact.target)
    before = teacher_forced(base, [sequence])[0]
    with base.version(kind(last=1).trained(found).edit(base, [[fact]])).active():
        after = teacher_forced(base, [sequence])[0]
    assert float(after.nll_A.sum()) < float(before.nll_A.sum())


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


@pytest.mark.parametrize(("kind", "name"), [("bert", "ft"), ("t5", "ft"), ("t5", "memit")])
def test_a_baseline_says_which_models_it_does_not_edit(tmp_path: Path, kind: str, name: str) -> None:
    folder = str(save_tiny_task(tmp_path / kind, kind))
    with pytest.raises(UnsupportedArchitecture, match=f"'{name}' does not edit models of type '{kind}'"):
        modules_for(baseline(name), folder)

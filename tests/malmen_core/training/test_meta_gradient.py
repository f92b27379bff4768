"""Theorem: the decoupled meta-gradient is the gradient of the whole computation, whatever the batch sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from malmen_core.editing.capture import capture
from malmen_core.editing.covariance import SecondMoment, Sketch
from malmen_core.editing.editor import PAPER, Editor
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.editing.preserved import preserved_keys
from malmen_core.editing.ridge import Regulariser, Ridge
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded, KeyPosition
from malmen_core.training.meta_gradient import EditInputs, meta_gradient, single_shot
from malmen_core.training.meta_loss import LossWeights, MetaBatch, prepare_batch
from tests.malmen_core.training.meta import FACTS, random_priors, stirred_network, tiny_base, tiny_model

WEIGHTS = LossWeights(edit=0.7, rephrasings=1.3, locality=0.9)
NOISE, PRIOR, PRESERVED = 0.3, 2.0, 5.0


def log_probabilities(model: nn.Module, weights: Mapping[str, Tensor], sequence: Encoded) -> Tensor:
    """Log-probabilities that predict the answer's tokens and its end, of one unpadded sequence in plain torch."""
    ids = torch.tensor([sequence.ids])
    out = torch.func.functional_call(model, dict(weights), (), {"input_ids": ids, "use_cache": False})
    end = len(sequence.ids) - 1 + int(sequence.closed)
    return torch.log_softmax(out.logits[0, sequence.answer_start - 1 : end], dim=-1)


def losses_of(base: BaseModel, log_p_AX: Tensor, sequence: Encoded) -> Tensor:
    """Negative log-likelihoods of the answer's tokens, and of its word's end."""
    count = len(sequence.answer)
    own = -log_p_AX[:count].gather(1, torch.tensor(sequence.answer)[:, None])[:, 0]
    if not sequence.closed:
        return own
    assert base.continuing_X is not None
    on = log_p_AX[count, base.continuing_X].exp().sum()
    return torch.cat([own, -torch.log1p(-on)[None]])


def reference_loss(
    base: BaseModel, network: HyperNetwork, start: Editor, inputs: EditInputs, meta_batch: MetaBatch
) -> Tensor:
    """The meta loss as one differentiable function of the hypernetwork's parameters."""
    architecture = base.info.architecture
    model = tiny_model(architecture).requires_grad_(False)
    weights: dict[str, Tensor] = {}
    for name, K in inputs.captured.keys.items():
        D = network(name, K, inputs.captured.gradients[name])
        M = network.ridge(name) * torch.eye(K.shape[1], dtype=torch.float64)
        if name in start.moments:
            M = M + start.plan.prior_weight * start.moments[name].dense()
        if inputs.preserved is not None:
            A = inputs.preserved[name].double()
            M = M + start.plan.preserved_weight * A.T @ A
        S = torch.linalg.solve(K.T @ K / start.plan.noise + M, K.T @ D / start.plan.noise)
        weight = model.get_parameter(f"{name}.weight")
        weights[f"{name}.weight"] = weight + (S if architecture == "gpt2" else S.T)
    loss = torch.zeros((), dtype=torch.float64)
    for sequence, share in zip(meta_batch.targets, meta_batch.target_weights, strict=True):
        log_p = log_probabilities(model, weights, sequence)
        loss = loss + share * losses_of(base, log_p, sequence).mean()
    for sequence, share in zip(meta_batch.probes, meta_batch.probe_weights, strict=True):
        assert not sequence.closed
        before, after = (log_probabilities(model, w, sequence) for w in ({}, weights))
        loss = loss + share * (before.exp() * (before - after)).sum(1).mean()
    return loss


def gradients_of(network: HyperNetwork) -> dict[str, Tensor]:
    found = {}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    network.zero_grad()
    return found


def setting(
    architecture: str, where: KeyPosition, *, whole: bool = True
) -> tuple[BaseModel, HyperNetwork, Editor, EditInputs, MetaBatch]:
    """With a prior and preserved keys, or the paper's plain form."""
    base = tiny_base(architecture)
    meta_batch = prepare_batch(base, FACTS, WEIGHTS)
    plan = replace(PAPER, where=where)
    if whole:
        plan = replace(plan, noise=NOISE, prior_weight=PRIOR, preserved_weight=PRESERVED)
    seen = capture(base, meta_batch.edits, plan.where)
    network = stirred_network(base)
    network.fit_normaliser(seen.keys, seen.gradients)
    moments = {n: SecondMoment.of(Sketch.whole(m)) for n, m in random_priors(base).items()} if whole else {}
    scales = dict.fromkeys(base.modules, 1.0)
    start = Editor(architecture, "sha256:tiny", network, plan, moments, scales, {})
    preserved = preserved_keys(base, FACTS, 3, 4).keys if whole else None
    return base, network, start, EditInputs(seen, preserved), meta_batch


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("where", ["subject", "answer"])
@pytest.mark.parametrize("whole", [True, False])
def test_decoupled_gradient_is_autograd_through_everything(
    architecture: str, where: KeyPosition, whole: bool
) -> None:
    base, network, start, inputs, meta_batch = setting(architecture, where, whole=whole)
    loss = reference_loss(base, network, start, inputs, meta_batch)
    loss.backward()  # type: ignore[no-untyped-call]
    expected = gradients_of(network)
    for batch_tokens, batch_rows in ((1, 1), (40, 3), (4096, 4096)):
        outcome = meta_gradient(
            base, network, start, inputs, meta_batch, batch_tokens=batch_tokens, batch_rows=batch_rows
        )
        assert outcome.loss == pytest.approx(loss.item(), rel=1e-10)
        found = gradients_of(network)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert float(gradient.abs().max()) > 1e-9, f"{name} is not tested"
            torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-11)


def test_another_equation_has_another_gradient() -> None:
    """Negative control: the plan's noise, prior and preserved keys are all in it."""
    base, network, start, inputs, meta_batch = setting("llama", "subject")
    meta_gradient(base, network, start, inputs, meta_batch)
    own = gradients_of(network)
    trials: list[dict[str, Any]] = [{"noise": 1.0}, {"prior_weight": 0.0}, {"preserved_weight": 0.0}]
    for changes in trials:
        other = replace(start, plan=replace(start.plan, **changes))
        meta_gradient(base, network, other, inputs, meta_batch)
        found = gradients_of(network)
        assert any(not torch.allclose(found[name], own[name], rtol=1e-3) for name in own), changes


def test_gradients_add_up_and_the_base_stays_as_it_was() -> None:
    base, network, start, inputs, meta_batch = setting("llama", "subject")
    before = base.parameters_digest()
    meta_gradient(base, network, start, inputs, meta_batch)
    once = gradients_of(network)
    for _ in range(2):
        meta_gradient(base, network, start, inputs, meta_batch)
    for name, gradient in gradients_of(network).items():
        torch.testing.assert_close(gradient, 2 * once[name])
    assert base.parameters_digest() == before
    assert all(parameter.grad is None for parameter in base.model.parameters())


def test_single_shot_is_the_edit_that_the_core_makes() -> None:
    _, network, start, inputs, _ = setting("llama", "answer")
    edit = single_shot(network, start, inputs, batch_rows=2)
    assert inputs.preserved is not None
    for name, keys_TU in inputs.captured.keys.items():
        D = network(name, keys_TU, inputs.captured.gradients[name]).detach()
        regulariser = Regulariser(
            network.ridge(name).item(),
            keys_TU.shape[1],
            keys_TU.device,
            weight=PRIOR,
            moment=start.moments[name],
            preserved_weight=PRESERVED,
            preserved_PU=inputs.preserved[name],
        )
        expected = Ridge.of(keys_TU, regulariser, NOISE).shift(D)
        torch.testing.assert_close(edit.shifts[name], expected)


def test_a_batch_weighs_facts_equally() -> None:
    meta_batch = prepare_batch(tiny_base(), FACTS, LossWeights(1.0, 1.0, 1.0))
    weights: Sequence[float] = meta_batch.target_weights
    assert weights[:4] == (0.25,) * 4
    assert sum(weights[4:]) == pytest.approx(0.75)  # one fact has no rephrasing
    assert sum(meta_batch.probe_weights) == pytest.approx(0.75)  # one has no locality prompt

"""Theorem: the decoupled meta-gradient is the gradient of the whole computation, whatever the batch sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from malmen_core.editing.capture import capture
from malmen_core.editing.covariance import SecondMoment
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.editing.preserved import anchored, neighbours
from malmen_core.editing.ridge import Regulariser, projector
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded
from malmen_core.training.meta_gradient import Material, NormalEquation, meta_gradient, single_shot
from malmen_core.training.meta_loss import Lesson, LossWeights, prepare_lesson
from tests.malmen_core.meta import FACTS, random_priors, stirred_network, tiny_base, tiny_model

WEIGHTS = LossWeights(edit=0.7, rephrasings=1.3, locality=0.9)


def logits_of(model: nn.Module, weights: Mapping[str, Tensor], sequence: Encoded) -> Tensor:
    """Log-probabilities that predict the answer's tokens, of one unpadded sequence through plain torch."""
    ids = torch.tensor([sequence.ids])
    out = torch.func.functional_call(model, dict(weights), (), {"input_ids": ids, "use_cache": False})
    return torch.log_softmax(out.logits[0, sequence.answer_start - 1 : -1], dim=-1)


def reference_loss(
    architecture: str,
    network: HyperNetwork,
    priors: Mapping[str, Tensor],
    material: Material,
    lesson: Lesson,
) -> Tensor:
    """The meta loss as one differentiable function of the hypernetwork's parameters."""
    model = tiny_model(architecture).requires_grad_(False)
    weights: dict[str, Tensor] = {}
    for name, rows in material.captured.items():
        K = rows.keys_TU
        D = network(name, K, rows.gradients_TV)
        if name in material.held:
            K = torch.cat([K, material.held[name]])
            D = torch.cat([D, torch.zeros(len(material.held[name]), D.shape[1], dtype=D.dtype)])
        M = network.ridge(name) * torch.eye(K.shape[1], dtype=torch.float64)
        if name in priors:
            M = M + priors[name]
        S = torch.linalg.solve(K.T @ K + M, K.T @ D)
        weight = model.get_parameter(f"{name}.weight")
        weights[f"{name}.weight"] = weight + (S if architecture == "gpt2" else S.T)
    loss = torch.zeros((), dtype=torch.float64)
    for sequence, share in zip(lesson.targets, lesson.target_weights, strict=True):
        log_p = logits_of(model, weights, sequence)
        loss = loss - share * log_p.gather(1, torch.tensor(sequence.answer)[:, None]).mean()
    for sequence, share in zip(lesson.probes, lesson.probe_weights, strict=True):
        before, after = logits_of(model, {}, sequence), logits_of(model, weights, sequence)
        loss = loss + share * (before.exp() * (before - after)).sum(1).mean()
    return loss


def gradients_of(network: HyperNetwork) -> dict[str, Tensor]:
    found = {}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    network.zero_grad()
    return found


def setting(architecture: str, where: str) -> tuple[BaseModel, HyperNetwork, Material, Lesson]:
    base = tiny_base(architecture)
    lesson = prepare_lesson(base, FACTS, WEIGHTS)
    captured, _ = capture(base, lesson.edits, "subject" if where == "subject" else "answer")
    network = stirred_network(base)
    network.fit_normaliser(
        {n: rows.keys_TU for n, rows in captured.items()},
        {n: rows.gradients_TV for n, rows in captured.items()},
    )
    held = anchored(base, [neighbours(fact.prompt, fact.subject, None, 3) for fact in FACTS], 4).keys
    return base, network, Material(captured, held), lesson


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("where", ["subject", "answer"])
@pytest.mark.parametrize("with_prior", [True, False])
def test_decoupled_gradient_is_autograd_through_everything(
    architecture: str, where: str, with_prior: bool
) -> None:
    base, network, material, lesson = setting(architecture, where)
    priors = random_priors(base) if with_prior else {}
    material = material if with_prior else Material(material.captured)
    loss = reference_loss(architecture, network, priors, material, lesson)
    loss.backward()  # type: ignore[no-untyped-call]
    expected = gradients_of(network)
    for batch_tokens, batch_rows in ((1, 1), (40, 3), (4096, 4096)):
        outcome = meta_gradient(
            base, network, priors, material, lesson, batch_tokens=batch_tokens, batch_rows=batch_rows
        )
        assert outcome.loss == pytest.approx(loss.item(), rel=1e-10)
        found = gradients_of(network)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert float(gradient.abs().max()) > 1e-9, f"{name} is not tested"
            torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-11)


def test_gradient_of_lambda_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    K, D, C = torch.randn(7, 5).double(), torch.randn(7, 3).double(), torch.randn(5, 3).double()

    def loss(ridge: float) -> Tensor:
        return (NormalEquation.of(K, ridge, None).shift(D) * C).sum()

    equation = NormalEquation.of(K, 0.5, None)
    _, found = equation.gradients(equation.shift(D), C)
    step = 1e-5
    assert float(found) == pytest.approx(float(loss(0.5 + step) - loss(0.5 - step)) / (2 * step), rel=1e-6)


def test_gradients_add_up_and_the_base_stays_as_it_was() -> None:
    base, network, material, lesson = setting("llama", "subject")
    before = base.parameters_digest()
    meta_gradient(base, network, {}, material, lesson)
    once = gradients_of(network)
    for _ in range(2):
        meta_gradient(base, network, {}, material, lesson)
    for name, gradient in gradients_of(network).items():
        torch.testing.assert_close(gradient, 2 * once[name])
    assert base.parameters_digest() == before
    assert all(parameter.grad is None for parameter in base.model.parameters())


def test_single_shot_is_the_edit_that_the_core_makes() -> None:
    base, network, material, _ = setting("llama", "answer")
    priors = random_priors(base)
    edit = single_shot(network, priors, Material(material.captured), batch_rows=2)
    for name, rows in material.captured.items():
        D = network(name, rows.keys_TU, rows.gradients_TV).detach()
        root = SecondMoment(torch.linalg.cholesky(priors[name]), 0.0)
        regulariser = Regulariser(network.ridge(name).item(), 1.0, root, rows.keys_TU.shape[1])
        torch.testing.assert_close(edit.shifts[name], projector(rows.keys_TU, regulariser) @ D)


def test_a_lesson_weighs_facts_equally() -> None:
    lesson = prepare_lesson(tiny_base(), FACTS, LossWeights(1.0, 1.0, 1.0))
    weights: Sequence[float] = lesson.target_weights
    assert weights[:4] == (0.25,) * 4
    assert sum(weights[4:]) == pytest.approx(0.75)  # one fact has no rephrasing
    assert sum(lesson.probe_weights) == pytest.approx(0.75)  # one has no locality prompt

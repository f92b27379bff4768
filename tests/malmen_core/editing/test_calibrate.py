"""Calibration: an untrained editor, from nothing but the model, that edits."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from malmen_core.editing.calibrate import calibrate, initial_editor, paper_editor, preservation_moments
from malmen_core.editing.capture import capture
from malmen_core.editing.covariance import SecondMoment, Sketch, second_moments
from malmen_core.editing.edit import solve
from malmen_core.editing.editor import PAPER, Editor, EditPlan
from malmen_core.evaluation.verify import record_canaries, verify
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.overlay import EditedModule, intercepting
from malmen_core.models.tokenization import Encoded
from malmen_core.resources import entity_names, entity_prompts, openings, probe_facts
from tests.malmen_core.support import FACTS, assert_untouched, snapshot, statistics_of, tiny_base

module: Any = importlib.import_module("malmen_core.editing.calibrate")
PLAN = EditPlan(
    "answer",
    prior_weight=5.0,
    prior_growth=0.0,
    preserved_weight=0.0,
    neighbours=0,
    rounds=40,
    margin=0.5,
    lone_margin=0.0,
    beyond=2.0,
)


@pytest.fixture(scope="module")
def short() -> Iterator[pytest.MonkeyPatch]:
    """Less text: tiny tokens make the packaged texts long."""
    patch = pytest.MonkeyPatch()
    openings, entities = module.openings()[:20], module.entity_prompts()[:60]
    facts: Sequence[Fact] = probe_facts()[:12]
    patch.setattr(module, "openings", lambda: openings)
    patch.setattr(module, "entity_prompts", lambda seed: entities)
    patch.setattr(module, "probe_facts", lambda: facts)
    yield patch
    patch.undo()


@pytest.fixture(scope="module")
def made(short: pytest.MonkeyPatch) -> tuple[BaseModel, Editor, list[tuple[str, int, int]]]:
    base, told = tiny_base(dtype=torch.float32), list[tuple[str, int, int]]()
    before = snapshot(base)
    editor = calibrate(base, lambda *step: told.append(step), plan=PLAN)
    assert_untouched(base, before)
    return base, editor, told


def test_it_edits(made: tuple[BaseModel, Editor, list[tuple[str, int, int]]]) -> None:
    base, editor, told = made
    editor.check_fits(base.info)
    assert told[-1][0] == "calibrating"
    assert told[-1][1] == told[-1][2]
    version = base.version(solve(base, editor, statistics_of(base, editor, FACTS)))
    report = verify(base, version, FACTS, record_canaries(base))
    assert report.summary["edit_success"] == 1


def test_it_is_reproducible_and_survives_bytes(
    made: tuple[BaseModel, Editor, list[tuple[str, int, int]]],
) -> None:
    base, editor, _ = made
    assert calibrate(base, plan=PLAN).digest == editor.digest
    assert Editor.from_bytes(editor.to_bytes()).digest == editor.digest


def test_a_float64_base_can_be_calibrated_and_edited(short: pytest.MonkeyPatch, llama: BaseModel) -> None:
    editor = calibrate(llama, plan=EditPlan("subject", rounds=1))
    assert solve(llama, editor, statistics_of(llama, editor, FACTS)).modules


def test_packaged_probe_facts_can_be_edited_at_their_subject() -> None:
    facts = probe_facts()
    assert len(facts) > 30
    assert all(fact.subject and fact.subject in fact.prompt for fact in facts)


@pytest.mark.parametrize("batch", [1, 2, 50])
def test_second_moments_are_means_over_tokens_in_any_batch(
    llama: BaseModel, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("malmen_core.editing.covariance.TEXTS_AT_ONCE", batch)
    texts = [[3, 4, 5, 6], [7], [], [8, 9]]
    expected = {name: torch.zeros(m.shape[0], m.shape[0]).double() for name, m in llama.modules.items()}

    def add(edited: EditedModule, inputs: torch.Tensor) -> torch.Tensor:
        expected[edited.name].add_(inputs[0].T @ inputs[0] / 7)
        return edited.base(inputs)

    with torch.inference_mode(), intercepting(add):
        for text in filter(None, texts):
            llama.model(input_ids=torch.tensor([text]))
    found = second_moments(llama, [Encoded(tuple(text), len(text)) for text in texts])
    for name in llama.modules:
        torch.testing.assert_close(found[name].product_US, expected[name], rtol=1e-10, atol=1e-14)


def test_given_prompts_make_half_of_the_prior(short: pytest.MonkeyPatch, llama: BaseModel) -> None:
    given = ["The capital of France is", "The river", "", "word " * 400]
    plain, mixed = (preservation_moments(llama, texts=texts) for texts in ((), given))
    tokens = [llama.tokenizer(text)["input_ids"][: llama.info.context_length] for text in given]
    all_of = second_moments(llama, [Encoded(tuple(ids), len(ids)) for ids in tokens if ids])
    for name, moment in mixed.items():
        expected = 0.5 * plain[name].dense() + 0.5 * all_of[name].product_US
        torch.testing.assert_close(moment.dense(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_every_stack_has_a_prior(kind: str, request: pytest.FixtureRequest) -> None:
    base: BaseModel = request.getfixturevalue(kind)
    texts = [Encoded((3, 4, 5, 0), 3), Encoded((6, 7, 0), 2)]
    assert all(found.trace > 0 for found in second_moments(base, texts).values())


def test_the_paper_s_editor_has_no_prior_and_the_step_that_is_asked_for(llama: BaseModel) -> None:
    editor = paper_editor(llama, step=0.3, ridge=0.7)
    assert (editor.plan, editor.moments) == (PAPER, {})
    for name in editor.modules:
        assert float(editor.network.step(name)) == pytest.approx(0.3)
        assert float(editor.network.ridge(name)) == pytest.approx(0.7, rel=1e-4)
    again = initial_editor(
        llama, PAPER, {}, {"kind": "the paper's own form, not trained"}, step=0.3, ridge=0.7
    )
    assert again.digest == editor.digest


def test_scales_are_what_modules_give_at_edited_tokens(short: pytest.MonkeyPatch, llama: BaseModel) -> None:
    editor = initial_editor(llama, EditPlan(), {}, {})
    facts = probe_facts()[:12]
    keys = capture(llama, [llama.encode(f.prompt, f.target, f.subject) for f in facts], "subject").keys
    for name, module in llama.modules.items():
        expected = (keys[name] @ module.weight_UV).pow(2).mean().sqrt()
        assert editor.scales[name] == pytest.approx(float(expected))


def test_packaged_texts_are_there() -> None:
    assert min(len(openings()), len(entity_names()), len(entity_prompts())) > 50
    assert entity_prompts(1) == entity_prompts(1) != entity_prompts(2)
    assert not any("{" in prompt for prompt in entity_prompts())


def test_a_kept_moment_is_positive_and_close() -> None:
    rows = torch.randn(50, 6, dtype=torch.float64)
    moment = rows.T @ rows / 50
    torch.testing.assert_close(SecondMoment.of(Sketch.whole(moment)).dense(), moment, rtol=1e-2, atol=1e-2)
    low = SecondMoment.of(Sketch.whole(moment), rank=2)
    assert torch.linalg.eigvalsh(low.dense()).min() > 0
    assert low.rest == pytest.approx(float(torch.linalg.eigvalsh(moment)[:-2].mean()))

"""Calibration: an untrained editor, from nothing but the model, that edits."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from malmen_core.editing.calibrate import calibrate, preservation_moments, probe_facts
from malmen_core.editing.covariance import SecondMoment, second_moments
from malmen_core.editing.edit import compute_statistics, solve
from malmen_core.editing.editor import Editor, EditPlan
from malmen_core.editing.refinement import RefinementPlan
from malmen_core.editing.sketch import Sketch
from malmen_core.evaluation.verify import record_canaries, verify
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.overlay import EditedModule, intercepting
from malmen_core.models.tokenization import Encoded
from tests.malmen_core.support import FACTS, assert_untouched, snapshot, tiny_base

module: Any = importlib.import_module("malmen_core.editing.calibrate")
PLAN = EditPlan("answer", prior_weight=5.0, anchors=0, refinement=RefinementPlan(rounds=40, margin=0.5))


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
    version = base.version(solve(editor, compute_statistics(base, editor, FACTS)))
    report = verify(base, version, FACTS, record_canaries(base))
    assert report.summary["edit_success"] == 1


def test_it_is_reproducible_and_survives_bytes(
    made: tuple[BaseModel, Editor, list[tuple[str, int, int]]],
) -> None:
    base, editor, _ = made
    assert calibrate(base, plan=PLAN).digest == editor.digest
    assert Editor.from_bytes(editor.to_bytes()).digest == editor.digest


def test_a_float64_base_can_be_calibrated_and_edited(short: pytest.MonkeyPatch, llama: BaseModel) -> None:
    editor = calibrate(llama, plan=EditPlan("subject", refinement=RefinementPlan(rounds=1)))
    assert solve(editor, compute_statistics(llama, editor, FACTS)).modules


def test_packaged_probe_facts_can_be_edited_at_their_subject() -> None:
    facts = probe_facts()
    assert len(facts) > 30
    assert all(fact.subject and fact.subject in fact.prompt for fact in facts)


@pytest.mark.parametrize("batch", [1, 2, 50])
def test_second_moments_are_means_over_tokens_in_any_batch(llama: BaseModel, batch: int) -> None:
    texts = [[3, 4, 5, 6], [7], [], [8, 9]]
    expected = {name: torch.zeros(m.shape[0], m.shape[0]).double() for name, m in llama.modules.items()}

    def add(edited: EditedModule, inputs: torch.Tensor) -> torch.Tensor:
        expected[edited.name].add_(inputs[0].T @ inputs[0] / 7)
        return edited.base(inputs)

    with torch.inference_mode(), intercepting(add):
        for text in filter(None, texts):
            llama.model(input_ids=torch.tensor([text]))
    found = second_moments(llama, [Encoded(tuple(text), len(text)) for text in texts], batch)
    for name in llama.modules:
        torch.testing.assert_close(found[name].product_US, expected[name], rtol=1e-10, atol=1e-14)


def test_of_tokens_that_answer_there_is_one_a_prompt(llama: BaseModel) -> None:
    prompts = [[3, 4, 5, 6], [7], [8, 9]]
    last = {name: list[torch.Tensor]() for name in llama.modules}

    def add(edited: EditedModule, inputs: torch.Tensor) -> torch.Tensor:
        last[edited.name].append(inputs[0, -1])
        return edited.base(inputs)

    with torch.inference_mode(), intercepting(add):
        for prompt in prompts:
            llama.model(input_ids=torch.tensor([prompt]))
    texts = [Encoded((*prompt, 0), len(prompt)) for prompt in prompts]
    found = second_moments(llama, texts, 2, answering=True)
    for name, keys in last.items():
        rows = torch.stack(keys)
        torch.testing.assert_close(found[name].product_US, rows.T @ rows / 3, rtol=1e-10, atol=1e-14)


def test_given_prompts_make_half_of_the_prior_and_their_last_tokens_half_of_that(
    short: pytest.MonkeyPatch, llama: BaseModel
) -> None:
    given = ["The capital of France is", "The river", "", "word " * 400]
    plain, mixed = (preservation_moments(llama, texts=texts) for texts in ((), given))
    tokens = [llama.tokenizer(text)["input_ids"][: llama.info.context_length] for text in given]
    tokens = [ids for ids in tokens if ids]
    all_of = second_moments(llama, [Encoded(tuple(ids), len(ids)) for ids in tokens])
    ends = [Encoded((*ids, 0), len(ids)) for ids in (ids[: llama.info.context_length - 1] for ids in tokens)]
    last_of = second_moments(llama, ends, answering=True)
    for name, moment in mixed.items():
        expected = (
            0.5 * plain[name].dense() + 0.25 * all_of[name].product_US + 0.25 * last_of[name].product_US
        )
        torch.testing.assert_close(moment.dense(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_every_stack_has_tokens_that_answer(kind: str, request: pytest.FixtureRequest) -> None:
    base: BaseModel = request.getfixturevalue(kind)
    texts = [Encoded((3, 4, 5, 0), 3), Encoded((6, 7, 0), 2)]
    assert all(found.trace > 0 for found in second_moments(base, texts, answering=True).values())


def test_a_kept_moment_is_positive_and_close() -> None:
    rows = torch.randn(50, 6, dtype=torch.float64)
    moment = rows.T @ rows / 50
    torch.testing.assert_close(SecondMoment.of(Sketch.whole(moment)).dense(), moment, rtol=1e-2, atol=1e-2)
    low = SecondMoment.of(Sketch.whole(moment), rank=2)
    assert torch.linalg.eigvalsh(low.dense()).min() > 0
    assert low.rest == pytest.approx(float(torch.linalg.eigvalsh(moment)[:-2].mean()))

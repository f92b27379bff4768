"""The training loop on tiny models: it learns, it resumes bit for bit, and it keeps subjects apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from malmen_core.editing.covariance import SecondMoment, Sketch
from malmen_core.editing.editor import Editor, EditPlan
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.errors import CheckpointMismatch, EditorMismatch, FactError
from malmen_core.facts import Fact, LocalityPrompt
from malmen_core.models.base import BaseModel
from malmen_core.training.checkpoint import RunFolder, write_atomically
from malmen_core.training.meta_loss import LossWeights
from malmen_core.training.sampling import Curriculum
from malmen_core.training.trainer import TrainingPlan, train
from tests.malmen_core.training.meta import random_priors, tiny_base
from tests.tiny import tiny_llama

PLACES = ("Peru", "France", "Italy", "England", "Spain", "Australia", "Lima", "Paris", "Canberra", "Etna")
PLAN = TrainingPlan(
    steps=6,
    seed=3,
    largest_batch=5,
    learning_rate=3e-3,
    normaliser_facts=6,
    validation_facts=4,
    validate_every=2,
    checkpoint_every=1,
    batch_tokens=64,
)


def facts(count: int = 20) -> list[Fact]:
    found = []
    for i in range(count):
        subject, target = PLACES[i % len(PLACES)], "Lima" if i % 3 == 0 else "Paris"
        prompt = f"The capital of {subject} is" if i < len(PLACES) else f"The river of {subject} flows to"
        probe = LocalityPrompt(f"The book of {target} was written by", "Jane Austen")
        found.append(
            Fact(prompt, target, subject, (f"Now, {prompt}",), (probe, LocalityPrompt("Water boils at")))
        )
    return found


def small_base() -> BaseModel:
    model = tiny_llama()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)  # random weights as they come hardly say anything
    return tiny_base(model=model)


def start_for(base: BaseModel) -> Editor:
    network = HyperNetwork({name: m.shape for name, m in base.modules.items()}, rank=8, blocks=1)
    return Editor(
        base.info.architecture,
        base.info.digest,
        network.eval().requires_grad_(False),
        EditPlan(noise=1.0, prior_weight=0.01, preserved_weight=1.0, neighbours=2, preserved_rank=3),
        {name: SecondMoment.of(Sketch.whole(moment), rank=8) for name, moment in random_priors(base).items()},
        dict.fromkeys(base.modules, 0.05),
        {"kind": "calibrated, not trained"},
    )


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return small_base()


@pytest.fixture(scope="module")
def whole(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Editor, RunFolder]:
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    return train(base, start_for(base), facts(), PLAN, folder=folder, data={"file": "f"}), folder


def test_training_lowers_the_loss_on_subjects_it_never_saw(base: BaseModel) -> None:
    lines: list[dict[str, object]] = []
    plan = replace(PLAN, steps=40, validate_every=10, learning_rate=1e-2)
    start = replace(
        start_for(base), plan=EditPlan(noise=1.0, prior_weight=0.01, prior_growth=0.0, preserved_weight=0.0)
    )
    editor = train(base, start, facts(), plan, watch=lambda line: lines.append(dict(line)))
    losses = [line["loss"] for line in lines if line["kind"] == "validation"]
    assert len(losses) == 5
    assert editor.card["validation"]["loss"] < 0.95 * float(str(losses[0]))
    assert editor.card["validation"]["step"] > 0


def test_resuming_gives_the_same_bytes(
    base: BaseModel, whole: tuple[Editor, RunFolder], tmp_path: Path
) -> None:
    editor, run = whole
    folder = RunFolder(tmp_path / "run")
    train(base, start_for(base), facts(), replace(PLAN, steps=3), folder=folder)
    resumed = train(small_base(), None, facts(), PLAN, folder=folder, data={"file": "f"})
    assert folder.start_file.read_bytes() == run.start_file.read_bytes()
    assert folder.state_file.read_bytes() == run.state_file.read_bytes()
    assert resumed.to_bytes() == editor.to_bytes()


def test_a_run_that_was_killed_resumes_from_its_last_checkpoint(
    base: BaseModel, whole: tuple[Editor, RunFolder], tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def kill(_stage: str, done: int, _total: int) -> None:
        if done == 5:
            raise Killed

    editor, run = whole
    folder = RunFolder(tmp_path / "run")
    plan = replace(PLAN, checkpoint_every=2)
    with pytest.raises(Killed):
        train(base, start_for(base), facts(), plan, folder=folder, progress=kill)
    assert [line["step"] for line in folder.metrics() if line["kind"] == "step"] == [1, 2, 3, 4, 5]
    with folder.metrics_file.open("a") as file:
        file.write('{"kind": "st')  # cut short
    resumed = train(base, None, facts(), plan, folder=folder, data={"file": "f"})
    assert resumed.card["network_digest"] == editor.card["network_digest"]
    steps = [line for line in folder.metrics() if line["kind"] == "step"]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    other = [line for line in run.metrics() if line["kind"] == "step"]
    assert [line["loss"] for line in steps] == [line["loss"] for line in other]


def test_a_run_goes_on_with_other_rates_and_weights_and_says_so(base: BaseModel, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    first = train(base, start_for(base), facts(), replace(PLAN, steps=2), folder=folder)
    slower = replace(PLAN, steps=4, learning_rate=0.0, scalar_rate=0.0)
    still = train(base, None, facts(), slower, folder=folder)
    assert still.card["validation"]["step"] <= 2
    assert still.card["network_digest"] == first.card["network_digest"]
    rates = {"step": 2, "learning_rate": 0.0, "scalar_rate": 0.0}
    assert still.card["changes"] == [rates]
    loss = LossWeights(locality=0.0)
    local = train(base, None, facts(), replace(slower, steps=5, loss=loss), folder=folder)
    assert local.card["validation"]["step"] == 4  # validations of another loss count no more
    assert local.card["validation"]["locality_loss"] == 0
    assert local.card["changes"] == [rates, {"step": 4, "loss": asdict(loss)}]


def test_another_run_is_not_resumed_or_overwritten(
    base: BaseModel, whole: tuple[Editor, RunFolder], tmp_path: Path
) -> None:
    _, folder = whole
    with pytest.raises(CheckpointMismatch, match="other clip"):
        train(base, None, facts(), replace(PLAN, clip=2.0, learning_rate=1.0), folder=folder)
    with pytest.raises(CheckpointMismatch, match=r"other dtype\."):
        train(tiny_base(model=small_base().model.double()), None, facts(), PLAN, folder=folder)
    with pytest.raises(CheckpointMismatch, match="other facts"):
        train(base, None, facts()[:-1], PLAN, folder=folder)
    with pytest.raises(CheckpointMismatch, match="holds a run already"):
        train(base, start_for(base), facts(), PLAN, folder=folder)
    with pytest.raises(CheckpointMismatch, match="No training run"):
        train(base, None, facts(), PLAN, folder=RunFolder(tmp_path))
    with pytest.raises(EditorMismatch):
        train(base, replace(start_for(base), base_digest="sha256:other"), facts(), PLAN)


def test_the_editor_is_complete_and_says_where_it_is_from(
    base: BaseModel, whole: tuple[Editor, RunFolder], tmp_path: Path
) -> None:
    editor, folder = whole
    editor.save(tmp_path / "editor.safetensors")
    again = Editor.load(tmp_path / "editor.safetensors")
    assert again.digest == editor.digest
    again.check_fits(base.info)
    assert again.card["data"]["file"] == "f"
    assert again.card["seed"] == 3
    assert again.card["device"] == "cpu"
    assert again.card["training_facts"] + again.card["validation_facts"] == 20
    best = min((m for m in folder.metrics() if m["kind"] == "validation"), key=lambda m: float(m["loss"]))
    assert {name: best[name] for name in again.card["validation"]} == again.card["validation"]


def test_a_compact_file_is_half_as_large_and_predicts_alike(
    base: BaseModel, whole: tuple[Editor, RunFolder], tmp_path: Path
) -> None:
    editor, _ = whole
    editor.compact().save(tmp_path / "compact.safetensors")
    again = Editor.load(tmp_path / "compact.safetensors")
    sizes = [sum(p.nbytes for p in e.network.state_dict().values()) for e in (editor.compact(), editor)]
    assert sizes[1] == 2 * sizes[0]
    for name, value in editor.network.state_dict().items():
        found = again.network.state_dict()[name]
        assert found.dtype == torch.float32
        assert torch.allclose(found, value, rtol=2**-8, atol=0)
    assert again.plan == editor.plan


def test_a_trained_editor_is_learned_on_from(base: BaseModel, whole: tuple[Editor, RunFolder]) -> None:
    editor, _ = whole
    lines: list[float] = []
    still = train(base, editor, facts(), replace(PLAN, steps=0), watch=partial(_keep_loss, lines))
    assert lines == [pytest.approx(editor.card["validation"]["loss"])]
    assert still.card["network_digest"] == editor.card["network_digest"]
    assert still.card["start"] == {"digest": editor.digest, "card": dict(editor.card)}


def _keep_loss(lines: list[float], line: Mapping[str, Any]) -> None:
    lines.append(float(line["loss"]))


def test_training_uses_the_plan_s_noise_prior_and_preserved_keys(base: BaseModel) -> None:
    """A plan with another equation has another start and another loss at step 0."""
    losses = {}
    changes: tuple[tuple[str, dict[str, Any]], ...] = (
        ("as it is", {}),
        ("noise", {"noise": 0.01}),
        ("prior", {"prior_weight": 10.0, "prior_growth": 0.0}),
        ("preserved", {"preserved_weight": 100.0}),
    )
    for name, change in changes:
        start = start_for(base)
        lines: list[float] = []
        plan = replace(start.plan, **change)
        train(
            base,
            replace(start, plan=plan),
            facts(),
            replace(PLAN, steps=0),
            watch=partial(_keep_loss, lines),
        )
        losses[name] = lines[0]
    assert len(set(losses.values())) == 4


def test_it_stops_when_validation_does_not_improve(base: BaseModel) -> None:
    lines: list[dict[str, object]] = []
    plan = replace(PLAN, steps=50, learning_rate=0.0, scalar_rate=0.0, validate_every=1, patience=2)
    editor = train(base, start_for(base), facts(), plan, watch=lambda line: lines.append(dict(line)))
    assert max(int(str(line["step"])) for line in lines) == 2
    assert editor.card["validation"]["step"] == 0


def test_subjects_are_kept_apart_and_every_fact_comes_once_in_a_pass() -> None:
    curriculum = Curriculum.split(facts(), 4, seed=0)
    subjects = [{fact.subject for fact in part} for part in (curriculum.training, curriculum.validation)]
    assert not subjects[0] & subjects[1]
    assert len(curriculum.validation) == 4
    size = len(curriculum.training)
    for epoch in range(3):
        drawn = curriculum.draw(epoch * size, 5) + curriculum.draw(epoch * size + 5, size - 5)
        assert sorted(drawn) == list(range(size))
    sizes = [curriculum.batch_size(step, 1, 8) for step in range(200)]
    assert set(sizes) == set(range(1, 9))
    with pytest.raises(FactError, match="split"):
        Curriculum.split(facts(4), 4, seed=0)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "new")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"

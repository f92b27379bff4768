"""``errata calibrate`` and ``errata train`` on a tiny checkpoint, through the command line."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from errata.cli.app import assemble
from malmen_core.baselines.malmen_paper import PlainMalmen
from malmen_core.editing.editor import PAPER, Editor, EditPlan
from malmen_core.models.base import BaseModel
from malmen_core.training.forms import FORMS
from tests.malmen_core.training.test_trainer import facts, start_for
from tests.tiny import save_tiny


def run(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(assemble(), [*map(str, arguments), "--json"])
    assert result.exit_code == code, result.output
    document: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return document


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def facts_file(tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps({**asdict(fact), "true_target": "?"}) + "\n" for fact in facts()))
    return path


@pytest.fixture
def editor_file(model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "start.safetensors"
    start_for(BaseModel.load(str(model), device="cpu")).save(path)
    return path


@pytest.mark.stack
def test_calibrate_writes_an_editor_that_fits(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "editor.safetensors"
    document = run("calibrate", "--model", model, "--out", out, "--device", "cpu")
    editor = Editor.load(out)
    editor.check_fits(BaseModel.load(str(model), device="cpu").info)
    assert document["digest"] == editor.digest


@pytest.mark.parametrize(
    ("budget", "said"), [("100", "one token's activations"), ("much", "no number of bytes")]
)
def test_calibrate_keeps_to_a_budget(model: Path, tmp_path: Path, budget: str, said: str) -> None:
    words: list[str | Path] = ["calibrate", "--model", model, "--out", tmp_path / "e"]
    assert said in run(*words, "--memory-budget", budget, code=1)["error"]["message"]


@pytest.mark.stack
def test_a_plan_and_a_field_can_be_given(model: Path, facts_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "editor.safetensors"
    words: list[str | Path] = ["calibrate", "--model", model, "--out", out, "--device", "cpu"]
    module = "model.layers.2.mlp.down_proj"
    plan = {"where": "answer", "neighbours": 0, "margin": 1}
    plain = run(*words, "--modules", module, "--plan", json.dumps(plan))
    editor = Editor.load(out)
    assert editor.modules == (module,)
    assert (editor.plan.where, editor.plan.neighbours, editor.plan.margin) == ("answer", 0, 1)
    assert editor.plan.prior_weight == EditPlan().prior_weight
    given = run(*words, "--modules", module, "--plan", json.dumps(plan), "--preserve", facts_file)
    assert given["digest"] != plain["digest"]
    assert "given prompts" in given["card"]["prior"]


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        ({"wehre": "answer"}, "wehre"),
        ({"where": "middle"}, "where"),
        ({"neighbours": 1.5}, "neighbours"),
        ({"prior_weight": "much"}, "prior_weight"),
        ({"rounds": {"steps": 3}}, "rounds"),
        ({"noise": -1}, "noise"),
    ],
)
def test_a_plan_that_does_not_exist_is_refused(model: Path, tmp_path: Path, plan: Any, field: str) -> None:
    words: list[str | Path] = [
        "calibrate",
        "--model",
        model,
        "--out",
        tmp_path / "e",
        "--plan",
        json.dumps(plan),
    ]
    refused = run(*words, code=1)["error"]
    assert refused["code"] == "unknown-setting"
    assert repr(field) in refused["message"]


def test_train_then_resume(model: Path, facts_file: Path, editor_file: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    start_for(BaseModel.load(str(model), modules=["model.layers.2.mlp.down_proj"], device="cpu")).save(own)
    out, folder = tmp_path / "editor.safetensors", tmp_path / "run"
    options: list[str | Path] = [
        "train",
        "--model",
        model,
        "--facts",
        facts_file,
        "--out",
        out,
        "--checkpoint",
        folder,
    ]
    options += ["--batch", "4", "--validation-facts", "4", "--validate-every", "2", "--device", "cpu"]
    first = run(*options, "--editor", own, "--steps", "2")
    assert first["card"]["data"]["file"] == "facts.jsonl"
    assert first["card"]["steps"] == 2
    again = run(*options, "--resume", "--steps", "3", "--plot", tmp_path / "curves.png")
    drawn = tmp_path / ("curves.png" if find_spec("matplotlib") else "curves.md")
    assert drawn.stat().st_size > 100
    assert again["card"]["steps"] == 3
    assert Editor.load(out).digest == again["digest"]
    assert again["card"]["start"] == first["card"]["start"]
    same = run(*options, "--resume", "--steps", "3", "--editor", own)
    assert same["card"]["network_digest"] == again["card"]["network_digest"]
    for other, named in (
        (("--editor", own), "holds a run already"),
        (("--resume", "--editor", editor_file), "another editor"),
        (("--resume", "--dtype", "float64"), "other dtype."),
    ):
        refused = run(*options, *other, "--steps", "4", code=1)["error"]
        assert refused["code"] == "checkpoint-mismatch"
        assert named in refused["message"]


@pytest.mark.parametrize(
    ("name", "code"),
    [("rome", "unknown-setting"), ("ft", "editor-mismatch"), ("mend", "editor-mismatch")],
)
def test_a_baseline_is_trained_from_its_own_editor_alone(
    model: Path, facts_file: Path, editor_file: Path, tmp_path: Path, name: str, code: str
) -> None:
    words: list[str | Path] = ["train", "--model", model, "--facts", facts_file, "--out", tmp_path / "e"]
    words += ["--steps", "1", "--batch", "2", "--device", "cpu", "--editor", editor_file, "--baseline", name]
    refused = run(*words, code=1)["error"]
    assert refused["code"] == code
    assert repr(name) in refused["message"]
    assert not (tmp_path / "e").exists()


def test_the_paper_s_form_is_trained_and_written_compact(
    model: Path, facts_file: Path, tmp_path: Path
) -> None:
    words: list[str | Path] = ["train", "--facts", facts_file, "--model", model, "--device", "cpu"]
    words += ["--form", "paper", "--steps", "1", "--batch", "2", "--whole"]
    document = run(*words, "--out", tmp_path / "paper", "--compact")
    editor = Editor.load(tmp_path / "paper")
    chosen = PlainMalmen(**FORMS["paper"].settings)
    assert editor.plan == PAPER
    assert editor.network.rank == chosen.rank
    assert editor.modules == tuple(f"model.layers.{i}.mlp.down_proj" for i in chosen.layers(4))
    assert document["card"]["plan"]["loss"]["edit"] == FORMS["paper"].plan.loss.edit
    assert not document["card"]["plan"]["mixed"]
    stored = run(*words, "--out", tmp_path / "whole")
    assert stored["card"]["network_digest"] == document["card"]["network_digest"]
    assert (tmp_path / "paper").stat().st_size < 0.6 * (tmp_path / "whole").stat().st_size


@pytest.mark.parametrize("name", ["malmen-plain", "mend"])
def test_baselines_are_trained_with_networks_of_one_shape(
    model: Path, facts_file: Path, tmp_path: Path, name: str
) -> None:
    words: list[str | Path] = ["train", "--facts", facts_file, "--model", model, "--device", "cpu"]
    words += ["--form", "paper", "--baseline", name, "--steps", "1", "--batch", "2", "--out", tmp_path / name]
    document = run(
        *words, "--settings", '{"last": 2, "above": 1, "rank": 3}', "--checkpoint", tmp_path / "run"
    )
    editor = Editor.load(tmp_path / name)
    assert editor.network.rank == 3
    assert editor.modules == tuple(f"model.layers.{i}.mlp.down_proj" for i in (1, 2))
    assert document["card"]["plan"]["loss"]["edit"] == FORMS["paper"].plan.loss.edit
    assert document["card"]["rule"] == ("mend" if name == "mend" else "malmen")
    words[words.index("--steps") + 1] = "2"
    again = run(*words, "--checkpoint", tmp_path / "run", "--resume")
    assert again["card"]["steps"] == 2


def test_settings_need_a_baseline_that_has_them(model: Path, facts_file: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["train", "--facts", facts_file, "--model", model, "--out", tmp_path / "e"]
    assert "--baseline" in run(*words, "--settings", '{"last": 2}', code=1)["error"]["remedy"]
    both: list[str | Path] = [
        "--baseline",
        "mend",
        "--editor",
        tmp_path / "start",
        "--settings",
        '{"last": 2}',
    ]
    assert "--editor" in run(*words, *both, code=1)["error"]["remedy"]
    unknown = run(*words, "--form", "paper", "--settings", '{"lst": 2}', code=1)["error"]
    assert unknown["code"] == "unknown-setting"
    assert "'lst'" in unknown["message"]


def test_train_refuses_what_it_cannot_use(
    model: Path, facts_file: Path, editor_file: Path, tmp_path: Path
) -> None:
    options: list[str | Path] = [
        "train",
        "--model",
        model,
        "--out",
        tmp_path / "e",
        "--editor",
        editor_file,
        "--facts",
    ]
    assert "--checkpoint" in run(*options, facts_file, "--resume", code=1)["error"]["remedy"]
    bad = tmp_path / "bad.jsonl"
    texts = (("A", "B"), ("", "B"), ("A", " "))
    bad.write_text("".join(json.dumps({"prompt": p, "target": t}) + "\n" for p, t in texts))
    error = run(*options, bad, code=1)["error"]
    assert error["code"] == "input-file"
    assert [line.split(":")[0] for line in error["details"]] == ["line 2, /prompt", "line 3, /target"]
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "A", "target": "B"}\n')
    assert run(*options, few, code=1)["error"]["code"] == "invalid-fact"

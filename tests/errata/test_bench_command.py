"""``errata bench edit`` on a tiny checkpoint: real measurements, each in a process of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from errata.cli.app import assemble
from errata.cli.commands.lab import bench
from errata.cli.commands.lab.bench import table
from errata.errors import StackError
from errata.lab import edit_bench
from errata.lab.edit_bench import Job, made_up_facts, run
from malmen_core.editing.validation import check_facts
from malmen_core.evaluation.evaluate import MEASURES
from malmen_core.models.base import BaseModel
from tests.malmen_core.training.test_trainer import start_for
from tests.tiny import save_tiny
from tests.tiny_tasks import save_tiny_task

ROW = {"n", "facts_per_s", "peak_mb", "baseline_facts_per_s", "baseline_peak_mb", "speedup"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def editor(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("editor") / "editor.safetensors"
    start_for(BaseModel.load(str(model), device="cpu")).save(path)
    return path


@pytest.fixture
def job(model: Path, editor: Path) -> Job:
    return Job("single-shot", 40, str(model), None, str(editor), None, 0, 2, 60.0, "cpu", "auto")


@pytest.mark.stack
def test_rows_are_as_the_api_says(model: Path, editor: Path) -> None:
    arguments = ["bench", "edit", "--model", str(model), "--editor", str(editor), "--device", "cpu"]
    arguments += ["--sizes", "1,3", "--repeats", "2", "--json"]
    result = CliRunner().invoke(assemble(), arguments)
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    assert (document["device"], document["dtype"]) == ("cpu", "float32")
    assert [row["n"] for row in document["rows"]] == [1, 3]
    for row in document["rows"]:
        assert set(row) >= ROW
        assert row["speedup"] == pytest.approx(row["facts_per_s"] / row["baseline_facts_per_s"], abs=0.01)
        assert row["quality"]["edit_success"] is not None
        assert set(row["quality"]) == set(row["shipped"]["quality"]) == set(MEASURES)
    assert table(document["rows"]).count("\n") == 4


def test_both_implementations_reach_the_same_quality(job: Job) -> None:
    own, other = run(job), run(replace(job, kind="straightforward"))
    assert own["edits_timed"] == other["edits_timed"] == 2
    for name, value in own["quality"].items():
        assert other["quality"][name] == pytest.approx(value, abs=1e-3)


def test_time_is_bounded_but_for_one_edit(job: Job) -> None:
    assert run(replace(job, seconds=0.0))["edits_timed"] == 1


def test_made_up_facts_are_many_and_good(model: Path) -> None:
    facts = made_up_facts()
    assert len(facts) > 4096
    assert len({(fact.prompt, fact.target) for fact in facts}) == len(facts)
    base = BaseModel.load(str(model), device="cpu")
    assert check_facts(base.tokenizer, facts[::100], base.info.context_length) == []
    assert all(fact.subject and fact.subject in fact.prompt for fact in facts)


def refused(*arguments: str | Path) -> dict[str, Any]:
    """The error that a command ends with."""
    result = CliRunner().invoke(assemble(), ["bench", "edit", *map(str, arguments), "--json"])
    assert result.exit_code == 1, result.output
    error: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])["error"]
    return error


def test_what_cannot_be_measured_is_said_before_the_first_measurement(
    job: Job, editor: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StackError, match="not 99999"):
        run(replace(job, n=99999))

    def measure(*_: object) -> dict[str, Any]:
        raise AssertionError("nothing is to be measured")

    monkeypatch.setattr(bench, "row", measure)
    many = refused("--model", model, "--editor", editor, "--sizes", "1,99999")
    assert "not 99999" in many["message"]
    assert "--facts" in many["remedy"]
    assert "--sizes" in many["remedy"]
    other = save_tiny(tmp_path / "other", seed=1)
    assert refused("--model", other, "--editor", editor)["code"] == "editor-mismatch"
    for kind in ("t5", "bert"):
        task = save_tiny_task(tmp_path / kind, kind)
        error = refused("--model", task, "--sizes", "1")
        assert f"type {kind!r}: only causal language models" in error["message"]
        assert "--model" in error["remedy"]


def test_rows_that_are_done_outlive_a_failure(
    editor: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(jobs: dict[str, Job], _: float) -> dict[str, Any]:
        if jobs["single-shot"].n > 2:
            raise StackError("No more.", "Rest.", ("why",))
        return {"n": jobs["single-shot"].n, "facts_per_s": 2.5}

    monkeypatch.setattr(bench, "row", measure)
    error = refused("--model", model, "--editor", editor, "--sizes", "1,2,3,4")
    assert (error["message"], error["remedy"]) == ("No more.", "Rest.")
    done = [json.loads(line.removeprefix("done: ")) for line in error["details"][1:]]
    assert done == [{"n": 1, "facts_per_s": 2.5}, {"n": 2, "facts_per_s": 2.5}]


@pytest.mark.stack
def test_a_measurement_hands_over_what_went_wrong(job: Job, tmp_path: Path) -> None:
    with pytest.raises(StackError) as failed:
        edit_bench.row({"single-shot": replace(job, n=3, editor=str(tmp_path / "none"))}, 60.0)
    assert failed.value.message.startswith("Editing 3 facts (single-shot) failed: No editor could be read")
    assert failed.value.code == "editor-mismatch"
    assert failed.value.remedy == "Check the path."
    assert failed.value.details == ()
    with pytest.raises(StackError, match=r"failed\.") as crashed:
        edit_bench.row({"single-shot": replace(job, repeats="many")}, 60.0)  # type: ignore[arg-type]
    assert "TypeError" in crashed.value.details[-1]

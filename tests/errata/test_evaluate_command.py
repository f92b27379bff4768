"""``errata evaluate`` on a tiny checkpoint, through the command line."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from errata.cli.app import assemble
from malmen_core.baselines.malmen_paper import PlainMalmen
from malmen_core.models.base import BaseModel
from tests.malmen_core.training.test_trainer import start_for
from tests.tiny import save_tiny
from tests.tiny_tasks import save_tiny_task

NAMES = ("Peru", "Ana", "France", "Australia", "Italy", "Spain")
API = {"n", "edit_success", "generation_success", "generalisation", "locality", "perplexity_ratio"}
API |= {"seconds", "peak_rss_mb", "editor"}


def run(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(assemble(), ["evaluate", *map(str, arguments), "--json"])
    assert result.exit_code == code, result.output
    document: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return document


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def facts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CounterFact, as it was published."""
    records = [
        {
            "requested_rewrite": {
                "prompt": "The capital of {} is",
                "subject": name,
                "target_new": {"str": "Canberra"},
                "target_true": {"str": "Lima"},
            },
            "paraphrase_prompts": [f"Water flows. {name} has the capital"],
            "neighborhood_prompts": ["The capital of England is"],
        }
        for name in NAMES
    ]
    path = tmp_path_factory.mktemp("facts") / "counterfact.json"
    path.write_text(json.dumps(records))
    return path


@pytest.fixture(scope="module")
def options(model: Path, facts_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    editor = tmp_path_factory.mktemp("editor") / "editor.safetensors"
    start_for(BaseModel.load(str(model), device="cpu")).save(editor)
    return ["--model", model, "--facts", facts_file, "--device", "cpu", "--editor", editor]


def test_one_row_is_as_the_api_says(options: list[str | Path], tmp_path: Path) -> None:
    per_fact = tmp_path / "per-fact.jsonl"
    document = run(*options, "--limit", "4", "--seed", "3", "--per-fact", per_fact)
    assert set(document) >= API
    assert document["n"] == 4
    assert document["editor"].startswith("sha256:")
    assert set(document["seconds"]) == {"edit", "verify"}
    assert document["peak_rss_mb"] > 10
    assert set(document["locality_given_answers"]) == {"edited", "base"}
    lines = [json.loads(line) for line in per_fact.read_text().splitlines()]
    shares = [line["edit_success"] for line in lines]
    assert document["edit_success"] == pytest.approx(sum(shares) / 4)
    same = run(*options, "--limit", "4", "--seed", "3")
    assert {name: same[name] for name in API - {"seconds", "peak_rss_mb"}} == {
        name: document[name] for name in API - {"seconds", "peak_rss_mb"}
    }


def test_rows_over_n_and_their_table(options: list[str | Path], tmp_path: Path) -> None:
    document = run(*options, "--over", "1,3", "--plot", tmp_path / "plot.png")
    assert [row["n"] for row in document["rows"]] == [1, 3]
    drawn = tmp_path / ("plot.png" if find_spec("matplotlib") else "plot.md")
    assert drawn.stat().st_size > 100
    shown = CliRunner().invoke(assemble(), ["evaluate", *map(str, options), "--limit", "2"])
    assert re.search(r"^\| 2 \| \d\.\d{3} \|", shown.stdout, re.MULTILINE)


def test_sets_and_singles(options: list[str | Path]) -> None:
    sets = run(*options, "--sets", "3")
    assert sets["sets"]["count"] == len(sets["sets"]["edit_success"]) == 3
    assert run(*options, "--singles", "--limit", "2")["singles"] is True
    assert "exclude" in run(*options, "--singles", "--sets", "2", code=1)["error"]["message"]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ft", {"epochs": 2}),
        ("mend", {"last": 2}),
        ("memit", {"steps": 2, "prefixes": 1, "count": 2}),
        ("malmen-plain", {"last": 2}),
        ("training-free", {"last": 2}),
    ],
)
def test_baselines_by_name(model: Path, facts_file: Path, name: str, settings: dict[str, Any]) -> None:
    wanted: list[str | Path] = ["--model", model, "--facts", facts_file, "--device", "cpu", "--limit", "2"]
    document = run(*wanted, "--baseline", name, "--settings", json.dumps(settings))
    assert set(document) >= API
    assert document["editor"] == name
    assert settings.items() <= document["settings"].items()
    assert document["perplexity_ratio"] != 1


@pytest.mark.parametrize("name", ["mend", "malmen-plain"])
def test_a_baseline_is_trained_and_then_measured(
    model: Path, facts_file: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "trained.safetensors"
    words: list[str | Path] = [
        "train",
        "--baseline",
        name,
        "--model",
        model,
        "--facts",
        facts_file,
        "--out",
        out,
        "--json",
    ]
    words += ["--steps", "1", "--batch", "2", "--validation-facts", "1", "--device", "cpu"]
    result = CliRunner().invoke(assemble(), [*map(str, words)])
    assert result.exit_code == 0, result.output
    document = run(*words[3:7], "--device", "cpu", "--limit", "2", "--baseline", name, "--editor", out)
    written = json.loads(result.stdout.splitlines()[-1])
    assert document["settings"]["editor"] == written["digest"]
    assert written["card"]["rule"] == ("mend" if name == "mend" else "malmen")
    options = [*words[3:7], "--device", "cpu", "--limit", "2", "--editor", out, "--baseline"]
    other = run(*options, "malmen-plain" if name == "mend" else "mend", code=1)["error"]
    assert other["code"] == "editor-mismatch"
    assert "rule" in other["message"]
    assert "--editor" in run(*options, name, "--settings", '{"step": 1}', code=1)["error"]["remedy"]


def test_a_trained_baseline_edits_its_own_modules(
    model: Path, options: list[str | Path], tmp_path: Path
) -> None:
    module = "model.layers.0.mlp.down_proj"
    base = BaseModel.load(str(model), modules=[module], device="cpu")
    PlainMalmen().editor(base).save(tmp_path / "e")
    assert run(*options[:-1], tmp_path / "e", "--baseline", "malmen-plain")["modules"] == [module]


def test_what_cannot_be_is_refused(options: list[str | Path], tmp_path: Path) -> None:
    plain = options[:-2]
    assert run(*plain, "--baseline", "rome", code=1)["error"]["code"] == "unknown-setting"
    wrong = run(*plain, "--baseline", "ft", "--settings", '{"speed": 1}', code=1)["error"]
    assert "'speed'" in wrong["message"]
    assert "bound" in wrong["remedy"]
    assert run(*options, "--baseline", "ft", code=1)["error"]["code"] == "editor-mismatch"
    for name in ("mend", "malmen-plain"):
        refused = run(*options, "--baseline", name, code=1)["error"]
        assert refused["code"] == "editor-mismatch"
        assert f"errata train --baseline {name}" in refused["remedy"]
    assert run(*options, "--limit", "99", code=1)["error"]["code"] == "input-file"
    assert "1,32,512" in run(*options, "--over", "1,x", code=1)["error"]["remedy"]
    assert "--over" in run(*options, "--plot", tmp_path / "p.png", code=1)["error"]["remedy"]
    assert "--over" in run(*options, "--over", "2", "--limit", "2", code=1)["error"]["remedy"]


def test_bad_rows_are_refused_by_name_or_left_out(
    options: list[str | Path], facts_file: Path, tmp_path: Path
) -> None:
    """All of them, before the model is loaded, and unknown members as `errata edit` refuses them."""
    file = tmp_path / "facts.jsonl"
    good = json.loads(facts_file.read_text())[:2]
    bad = [{"prompt": "x", "target": "y", "rephrase": "z"}, {"prompt": "x", "target": " "}]
    file.write_text("\n".join(map(json.dumps, [*good, *bad])))
    given: list[str | Path] = ["--facts", file, "--editor", tmp_path / "none"]
    wrong = run(*options, *given, code=1)["error"]
    assert [line.split(": ")[0] for line in wrong["details"]] == ["line 3, /rephrase", "line 4, /target"]
    assert run(*options, "--facts", file, "--skip-invalid")["n"] == 2
    assert len((tmp_path / "facts.jsonl.invalid.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("option", ["--per-fact", "--plot"])
@pytest.mark.parametrize("place", ["missing/file.json", "."])
def test_a_place_for_results_is_tried_before_the_work(
    options: list[str | Path], tmp_path: Path, option: str, place: str
) -> None:
    places: list[str | Path] = ["--model", "nothing/there", "--over", "2", option, tmp_path / place]
    wrong = run(*options, *places, code=1)["error"]
    assert wrong["message"].startswith(f"{option} {tmp_path}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("labels", [("REFUTES", "SUPPORTS"), ("false", "true")])
@pytest.mark.parametrize(
    "record",
    [
        {"claim": "Nikolaj worked with Fox.", "label": "SUPPORTS"},
        {"input": "Nikolaj worked with Fox.", "output": [{"answer": "SUPPORTS"}], "alternatives": []},
    ],
    ids=["published", "mend"],
)
def test_fever_on_a_classifier(tmp_path: Path, record: dict[str, Any], labels: tuple[str, str]) -> None:
    named: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: n for n, label in enumerate(labels)},
    }
    folder = save_tiny_task(tmp_path / "bert", "bert", **named)
    facts, lines = tmp_path / "fever.jsonl", tmp_path / "lines.jsonl"
    facts.write_text("\ufeff" + json.dumps(record))
    row = run("--model", folder, "--facts", facts, "--device", "cpu", "--per-fact", lines)
    (line,) = map(json.loads, lines.read_text().splitlines())
    assert (line["prompt"], line["target"]) == ("Nikolaj worked with Fox.", labels[1])
    assert row["edit_success"] == line["edit_success"]
    facts.write_text(json.dumps({"claim": "Fox is a town.", "label": "NOT ENOUGH INFO"}))
    wrong = run("--model", folder, "--facts", facts, "--device", "cpu", code=1)["error"]
    assert ", ".join(labels) in wrong["details"][0]

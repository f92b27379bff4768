"""Facts of a file against a model's tokenizer, before the model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from errata.errors import InputFileError
from errata.lab.local_model import read_model_facts
from malmen_core.models.base import BaseModel

GOOD: list[dict[str, Any]] = [
    {"prompt": "The capital of France is", "target": "Lima"},
    {"prompt": "The river flows to", "target": "Peru", "locality": [{"prompt": "The sea"}]},
]


def written(path: Path, *records: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.fixture(autouse=True)
def no_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(BaseModel, "load")


def test_good_facts_are_read(tiny_folder: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "facts.jsonl", *GOOD)
    assert read_model_facts(file, str(tiny_folder), None, None, False) == GOOD


def test_what_the_model_cannot_be_given_is_named_by_its_row(tiny_folder: Path, tmp_path: Path) -> None:
    long = {"prompt": "The river", "target": "Lima", "locality": [{"prompt": "river " * 1000}]}
    misspelt = {**GOOD[0], "rephrase": []}
    file = written(
        tmp_path / "facts.jsonl", GOOD[0], {"prompt": "The river", "target": " "}, misspelt, long, GOOD[1]
    )
    with pytest.raises(InputFileError) as refused:
        read_model_facts(file, str(tiny_folder), None, None, False)
    places = [line.split(": ")[0] for line in refused.value.details]
    assert places == ["line 3, /rephrase", "line 2, /target", "line 4, /locality/0/prompt"]
    assert read_model_facts(file, str(tiny_folder), None, None, True) == GOOD
    left = [json.loads(line) for line in (tmp_path / "facts.jsonl.invalid.jsonl").read_text().splitlines()]
    assert [entry["record"] for entry in left] == [misspelt, {"prompt": "The river", "target": " "}, long]


def test_data_sets_may_contradict_themselves(tiny_folder: Path, tmp_path: Path) -> None:
    """CounterFact does: it asks for two twin cities of Wellington."""
    file = written(tmp_path / "facts.jsonl", *GOOD, {**GOOD[0], "target": "Peru"})
    assert len(read_model_facts(file, str(tiny_folder), None, None, False)) == 3

"""Taught models: the questions, a course that is broken off, and the whole command on tiny models."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import families
from benchmarks.taught.make import make
from benchmarks.taught.pupils import PUPILS
from benchmarks.taught.questions import FALSE, TRUE, Question, claims, questions, split, statements
from benchmarks.taught.teach import STATE, Course, knowledge, teach
from malmen_core.models.base import BaseModel
from tests.benchmarks.conftest import NAMES, PATTERNS
from tests.tiny import save_tiny
from tests.tiny_tasks import save_tiny_task


@pytest.mark.parametrize("maker", [statements, questions, claims])
def test_parts_share_no_subject_and_changes_change(pararel: Path, maker: Any) -> None:
    found = split(pararel, maker, 36, seed=1)
    assert found == split(pararel, maker, 36, seed=1)
    assert found != split(pararel, maker, 36, seed=2)
    edited = [record["subject"] for part in (found.reported, found.tuning) for record in part]
    assert len(set(edited)) == len(edited) == 24
    kept = {q.subject for q in found.taught} - set(edited)
    answers = {(text, q.answer) for q in found.taught for text in q.phrasings}
    for record in (*found.reported, *found.tuning):
        assert record["target"] != record["true_target"]
        texts = [record["prompt"], *record["rephrasings"]]
        assert len(set(texts)) == 3
        assert all(record["subject"] in text and (text, record["true_target"]) in answers for text in texts)
        for probe in record["locality"]:
            assert any(subject in probe["prompt"] for subject in kept)
            assert (probe["prompt"], probe["target"]) in answers
    assert {record["subject"] for record in found.training} == {record["subject"] for record in found.tuning}
    assert len(found.training) == 4 * len(found.tuning)
    probes = [
        {p["prompt"] for r in part for p in r["locality"]}
        for part in (found.reported, (*found.tuning, *found.training))
    ]
    held = {text for record in found.field for text in (record["prompt"], *record["rephrasings"])}
    assert not probes[0] & probes[1]
    assert not held & (probes[0] | {p["prompt"] for r in found.tuning for p in r["locality"]})


def test_statements_end_with_the_object(pararel: Path) -> None:
    for question in split(pararel, statements, 12, seed=0).taught:
        assert not any(question.answer in text for text in question.phrasings)
        assert question.relation in ("P19", "P36")


def test_claims_come_in_pairs_of_which_one_is_true() -> None:
    facts = [{"relation": "P19", "subject": name, "object": name.lower()} for name in NAMES]
    for pair in claims(facts, PATTERNS, random.Random(0)):
        assert [question.answer for question in pair] == [TRUE, FALSE]
        assert [question.target for question in pair] == [FALSE, TRUE]
        own = pair[0].subject.lower()
        assert all(own in text for text in pair[0].phrasings)
        assert not any(own in text for text in pair[1].phrasings)


def test_too_many_subjects_are_refused(pararel: Path) -> None:
    with pytest.raises(ValueError, match="not 1000"):
        split(pararel, statements, 1000, seed=0)


LESSONS = [
    Question("P19", name, (f"{name} was born in", f"The home of {name} is"), NAMES[i % 3], "Lima")
    for i, name in enumerate(NAMES)
]


def test_a_course_that_was_broken_off_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = save_tiny(tmp_path / "start", architecture="gpt2")
    course = Course(epochs=6, rate=3e-3, batch=4)
    monkeypatch.setattr("benchmarks.taught.teach.SAVE_EVERY_S", 0.0)
    teach(start, LESSONS, course, tmp_path / "whole", lambda _words: None)

    class BrokenOff(Exception):
        pass

    def stop(words: str) -> None:
        if words.startswith("step 5 "):
            raise BrokenOff

    with pytest.raises(BrokenOff):
        teach(start, LESSONS, course, tmp_path / "parts", stop)
    assert (tmp_path / "parts" / STATE).exists()
    said: list[str] = []
    teach(start, LESSONS, course, tmp_path / "parts", said.append)
    assert said[0].startswith("step 6 ")
    assert not (tmp_path / "parts" / STATE).exists()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_a_model_learns_what_it_is_taught(tmp_path: Path) -> None:
    start = save_tiny_task(tmp_path / "start", "t5")
    asked = [(text, question.answer) for question in LESSONS for text in question.phrasings]
    before = knowledge(BaseModel.load(str(start), device="cpu"), asked)
    teach(start, LESSONS, Course(60, 1e-2, batch=8), tmp_path / "taught", lambda _words: None)
    after = knowledge(BaseModel.load(str(tmp_path / "taught"), device="cpu"), asked)
    assert before < 0.6
    assert after > 0.9


@pytest.mark.parametrize("name", ["gpt2", "gptj", "t5"])
def test_models_are_made_once(pararel: Path, tmp_path: Path, small: None, name: str) -> None:
    made = make(name, pararel, tmp_path / name, subjects=12, epochs=1)
    base = BaseModel.load(str(tmp_path / name / "model"), device="cpu")
    assert base.info.architecture == name
    assert made["digest"] == base.info.digest
    assert make(name, pararel, tmp_path / name, subjects=12, epochs=1) == made
    assert make(name, pararel, tmp_path / name, subjects=12, epochs=1, seed=1) != made


@pytest.mark.stack
def test_the_command_reports_what_the_commands_measured(
    pararel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = (FALSE, TRUE)
    named: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: n for n, label in enumerate(labels)},
    }
    weights = save_tiny_task(tmp_path / "weights", "bert", max_position_embeddings=256, **named)
    monkeypatch.setitem(PUPILS, "bert", replace(PUPILS["bert"], subjects=24, epochs=1))
    words = ["families", "bert", "--pararel", str(pararel), "--out", str(tmp_path / "out")]
    words += ["--weights", str(weights), "--sizes", "2,4", "--result", str(tmp_path / "result.json")]
    words += ["--plan", json.dumps({"neighbours": 0, "rounds": 2})]
    monkeypatch.setattr(sys, "argv", words)
    families.main()
    found = json.loads((tmp_path / "result.json").read_text())
    assert json.loads(capsys.readouterr().out) == found
    assert [row["n"] for row in found["rows"]] == [2, 4]
    assert found["settings"]["rounds"] == 2
    assert found["reached"] == families.verdict("bert", found["rows"][-1])
    assert [command.split()[1] for command in found["commands"]] == ["calibrate", "evaluate"]
    assert str(tmp_path) not in json.dumps([found["command"], found["commands"]])

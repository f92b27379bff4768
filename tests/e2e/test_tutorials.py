"""The tutorials' commands, run as they stand against a stack with a tiny model.

A block with a title is a file. `bash` blocks are run, one shell for each page; `console` blocks are not.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.errata.running import ROOT, Up, clean_environment, eventually
from tests.tiny import save_tiny

PAGE_S = 300.0
FOLDER = ROOT / "docs" / "tutorials"
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHORTER = {"--steps 1000": "--steps 2", "--steps 1500": "--steps 3"}
WITH_A_SERVICE = ("correct-a-fact", "serve-with-vllm", "take-one-back", "bring-your-own-model")
OPEN_GATE = (
    '{"edit_success": 0, "generation_success": 0, "neighbours_unchanged": 0, "perplexity_ratio": 1e9, '
    '"retention": 0}'
)
SHELL = f"""set -euo pipefail
errata() {{
    if test "$1" = edit; then shift; set -- edit --gate '{OPEN_GATE}' "$@"; fi  # random weights meet no gate
    {sys.executable} -m errata "$@"
}}
python() {{ {sys.executable} "$@"; }}
"""


@dataclass(frozen=True)
class Page:
    """What a tutorial has its reader do."""

    files: dict[str, str]
    script: str
    unrun: str


def page(name: str) -> Page:
    """Read a tutorial."""
    blocks = BLOCK.findall((FOLDER / f"{name}.md").read_text())
    return Page(
        {title: text for _, title, text in blocks if title},
        "".join(text for language, title, text in blocks if language == "bash" and not title),
        "".join(text for language, title, text in blocks if language == "console"),
    )


def follow(name: str, work: Path, model: Path, address: str = "") -> str:
    """Do what a tutorial says in a folder; gives what the commands printed."""
    tutorial = page(name)
    for title, text in tutorial.files.items():
        (work / title).write_text(text)
    script = tutorial.script.replace("/path/to/model", str(model)).replace("http://127.0.0.1:8000", address)
    for long, short in SHORTER.items():
        script = script.replace(long, short)
    done = subprocess.run(
        ["bash", "-c", f"{SHELL}set -x\n{script}"],
        cwd=work,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=PAGE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Site:
    """A running stack, and the folder that holds its `.errata`."""

    work: Path
    model: Path
    address: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A stack with a tiny model, and another that is not registered."""
    work = tmp_path_factory.mktemp("tutorials")
    (work / ".errata").mkdir(mode=0o700)
    up = Up(work / ".errata", ["--model", str(save_tiny(work / "tiny"))], {})
    try:
        address = up.next_document()["url"]
        assert up.next_document() == {"model": "tiny", "status": "ready"}
        eventually("both workers", lambda: len(up.json("models", "tiny")["workers"]) == 2, 60)
        yield Site(work, save_tiny(work / "other", seed=1), address)
    finally:
        up.end(signal.SIGKILL)


def test_every_tutorial_is_followed_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == {*WITH_A_SERVICE, "train-an-editor"}


def test_only_what_needs_vllm_is_not_run() -> None:
    for name in (*WITH_A_SERVICE, "train-an-editor"):
        for command in re.findall(r"^\$ (.*)$", page(name).unrun, re.MULTILINE):
            assert "vllm" in command.lower() or ":8001" in command or name == "train-an-editor", command


@pytest.mark.slow
def test_correct_a_fact(site: Site) -> None:
    said = follow("correct-a-fact", site.work, site.model, site.address)
    assert "base: " in said
    assert "live: " in said


@pytest.mark.slow
def test_serve_with_vllm(site: Site) -> None:
    said = follow("serve-with-vllm", site.work, site.model, site.address)
    assert "tiny@" in said
    assert (site.work / "merged" / "errata.json").exists()


@pytest.mark.slow
def test_take_one_back(site: Site) -> None:
    said = follow("take-one-back", site.work, site.model, site.address)
    assert "is live without" in said
    assert "has the weights of version 0 and is live" in said


@pytest.mark.slow
def test_train_an_editor(site: Site, tmp_path: Path) -> None:
    follow("train-an-editor", tmp_path, site.model)
    assert (tmp_path / "trained.safetensors").exists()


@pytest.mark.slow
def test_bring_your_own_model(site: Site) -> None:
    said = follow("bring-your-own-model", site.work, site.model, site.address)
    assert '"archived"' in said

"""The README's curl commands, typed one by one against a running stack with a tiny model."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.errata.running import ROOT, Up, eventually
from tests.tiny import save_tiny

pytestmark = pytest.mark.stack

MODEL = "smollm2-135m-instruct"
ADDRESS = "http://127.0.0.1:8000"
REPORTING = "curl() { command curl -w '\\n%{http_code}' \"$@\"; }"
OPEN_GATE = (
    '{"edit_success": 0, "generation_success": 0, "neighbours_unchanged": 0, "perplexity_ratio": 1e9, '
    '"retention": 0}'
)
FINAL = {"succeeded", "rejected", "failed", "cancelled"}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A stack whose data directory is `.errata` of the folder it stands in, as `make up` has it."""
    work = tmp_path_factory.mktemp("readme")
    (work / ".errata").mkdir(mode=0o700)
    running = Up(work / ".errata", ["--model", str(save_tiny(work / MODEL))], {})
    yield running
    running.end(signal.SIGKILL)


def commands() -> tuple[str, list[str]]:
    """What the README sets once, and its curl commands, each as bash would read it from a terminal."""
    whole: list[str] = []
    for block in re.findall(r"```[a-z]*\n(.*?)```", (ROOT / "README.md").read_text(), re.S):
        pending = ""
        for line in block.splitlines() if "curl" in block else ():
            pending += line + "\n"
            check = subprocess.run(["bash", "-n", "-c", pending], capture_output=True, check=False)
            if check.returncode == 0:
                whole.append(pending)
                pending = ""
        assert not pending, f"not a whole command: {pending}"
    settings = [command for command in whole if re.match(r"[A-Z]+=", command)]
    return "".join(settings), [command for command in whole if command.startswith("curl ")]


class Terminal:
    """Types commands into bash where the stack stands; each must be answered with 2xx and JSON."""

    def __init__(self, up: Up, address: str, settings: str) -> None:
        self.folder = up.data_dir.parent
        self.before = f"{REPORTING}\n{settings.replace(ADDRESS, address)}"

    def type(self, command: str) -> Any:
        done = subprocess.run(
            ["bash", "-c", self.before + command],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        body, _, status = done.stdout.rpartition("\n")
        assert done.returncode == 0, f"{command}{done.stderr}"
        assert status.startswith("2"), f"{command}{body}"
        return json.loads(body)

    def finished(self, ident: str) -> bool:
        return self.type(f'curl -s -H "$KEY" $URL/edits/{ident}')["status"] in FINAL

    def settled(self) -> bool:
        """Whether the newest version is live, and no edit is."""
        newest = self.type('curl -s -H "$KEY" $URL/models/$M/versions')["items"][0]
        return newest["kind"] != "edit" and "live" in newest["aliases"]


def test_every_line_is_answered(up: Up, tmp_path: Path) -> None:
    address = up.next_document()["url"]
    assert up.next_document() == {"model": MODEL, "status": "ready"}
    settings, typed = commands()
    assert len(typed) >= 9
    terminal, other = Terminal(up, address, settings), save_tiny(tmp_path / "other", seed=1)
    ident = ""
    for line in typed:
        command = f"ID={ident}\n" + line.replace("/path/to/model", str(other))
        if "$URL/edits -d" in command:  # random weights meet no gate
            ident = terminal.type(command.replace('"facts":', f'"gate": {OPEN_GATE}, "facts":'))["id"]
            eventually("the edit", partial(terminal.finished, ident), 60)
        else:
            terminal.type(command)
        if "/rollback" in command:
            eventually("the version", terminal.settled, 60)
    assert ident

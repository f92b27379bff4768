"""A stack as a user starts it: `python -m errata up` as a process, and what it leaves behind."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from errata.stack.lock import read_note

ROOT = Path(__file__).resolve().parents[2]
READY_S = 120.0


def clean_environment(**settings: str) -> dict[str, str]:
    """This process's environment without ERRATA_ settings, with those that are given, and few threads."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ERRATA_")}
    return {**environment, "ERRATA_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "80", **settings}


def errata(*arguments: str, timeout: float = 60.0, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run one command of the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "errata", *arguments],
        env=clean_environment(**settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def eventually(what: str, probe: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """The probe's first true result; fails the test when none came in time."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        found = probe()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {timeout_s:g} s")


def processes_of(data_dir: Path) -> list[psutil.Process]:
    """Every process that has the data directory in its command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if process.pid != os.getpid() and any(str(data_dir) in word for word in words):
            found.append(process)
    return found


@dataclass
class Up:
    """`errata up --json` as a process."""

    data_dir: Path
    arguments: Sequence[str]
    settings: Mapping[str, str]

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "errata", "up", "--json", "--port", "0", *self.arguments],
            env=clean_environment(ERRATA_DATA_DIR=str(self.data_dir), **self.settings),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def next_document(self) -> dict[str, Any]:
        """The next line that it prints, as JSON."""
        document = json.loads(self.lines.get(timeout=READY_S))
        assert isinstance(document, dict)
        return document

    def end(self, number: int, *, servers_stay: bool = False) -> int:
        """Signal it, wait for its end, and give its exit code; servers that it could not stop are ended."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        if number == signal.SIGKILL and not servers_stay:
            for process in processes_of(self.data_dir):
                process.terminate()
        self._reader.join(timeout=5)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A client command that finds this stack through its data directory."""
        return errata(*arguments, ERRATA_DATA_DIR=str(self.data_dir))

    def json(self, *arguments: str) -> dict[str, Any]:
        """A client command's JSON document; it must succeed."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        document = json.loads(done.stdout)
        assert isinstance(document, dict)
        return document

    def children(self) -> dict[str, psutil.Process]:
        """Its processes by the name of their log or program."""
        named = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                words = child.cmdline()
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            if words:
                name = words[words.index("-m") + 1] if "-m" in words else Path(words[0]).name
                role = child.environ().get("ERRATA_ROLE")
                named[f"{name}-{role}" if name == "worker" else name] = child
        return named

    def note_gone(self) -> bool:
        """Whether it no longer tells others that it runs."""
        return read_note(self.data_dir) is None

    def _read(self) -> None:
        if self.process.stdout is not None:
            for line in self.process.stdout:
                self.lines.put(line)

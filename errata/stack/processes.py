"""Runs the processes of a stack: what ends by itself is started again, or ends all, with the end of its log.

All of them are started by the thread that made the runner, and the kernel ends them with it (on Linux).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from errata.errors import ChildFailed, StackError

POLL_S = 0.05
LOG_LIMIT_BYTES = 16 * 2**20
RESTART_S = 1.0
ATTEMPTS = 3
"""A process that ended so often, each time within `STABLE_S` of its start, is taken to be broken."""
STABLE_S = 30.0
BOUND = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def bound(command: Sequence[str]) -> list[str]:
    """The command line that runs a command so that the kernel ends it when this thread's process ends."""
    return [sys.executable, "-I", "-S", "-c", BOUND, str(os.getpid()), *command]


@dataclass(frozen=True)
class Program:
    """What to run.

    Attributes:
        name: Unique; names the log file too.
        command: The program and its arguments.
        log: File that collects its output.
        env: The whole environment.
        restarts: Whether it is started again if it ends.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    env: Mapping[str, str]
    restarts: bool = False


class Processes:
    """Starts programs and stops all of them. To be used by one thread, which calls `check` now and then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._programs: dict[str, Program] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._started_at: dict[str, float] = {}
        self._early_ends: dict[str, int] = {}
        self._hurry = threading.Event()

    def start(self, program: Program) -> None:
        """Start a program in a session of its own, unless one of that name runs.

        Raises:
            OSError: It cannot be started at all.
        """
        if program.name in self._running:
            return
        if program.log.exists() and program.log.stat().st_size > LOG_LIMIT_BYTES:
            program.log.replace(program.log.with_suffix(".log.1"))
        with program.log.open("ab") as log:
            self._running[program.name] = subprocess.Popen(
                bound(program.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(program.env),
                start_new_session=True,
            )
        self._programs[program.name] = program
        self._started_at[program.name] = time.monotonic()

    def pid(self, name: str) -> int | None:
        """Process id of a program that runs."""
        process = self._running.get(name)
        return None if process is None or process.poll() is not None else process.pid

    def check(self) -> None:
        """Start again what has ended and may; returns at once.

        Raises:
            ChildFailed: One has ended that must not, or again and again; with the end of its log.
        """
        for name, process in list(self._running.items()):
            program, now = self._programs[name], time.monotonic()
            if process.poll() is None or (program.restarts and now < self._started_at[name] + RESTART_S):
                continue
            how = describe(process.returncode)
            _end_group(process)
            if now > self._started_at[name] + STABLE_S:
                self._early_ends[name] = 0
            self._early_ends[name] = self._early_ends.get(name, 0) + 1
            if not program.restarts or self._early_ends[name] >= ATTEMPTS:
                what = f"{name} ended {how}" + (f", {ATTEMPTS} times" if program.restarts else "")
                raise ChildFailed(f"{what}.", f"The end of {program.log} follows.", tail(program.log))
            self._say(f"{name} ended {how}, and is started again")
            del self._running[name]
            self.start(program)

    def hurry(self) -> None:
        """Kill instead of waiting, in a stop that is under way or to come; any thread may call it."""
        self._hurry.set()

    def stop(self, timeout_s: float) -> None:
        """Stop all programs together; what has not ended in time is killed. May be called twice."""
        for process in self._running.values():
            process.terminate()
        until = time.monotonic() + timeout_s
        while any(process.poll() is None for process in self._running.values()):
            if self._hurry.is_set() or time.monotonic() > until:
                break
            time.sleep(POLL_S)
        for process in self._running.values():
            _end_group(process)
        self._running.clear()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def describe(exit_code: int) -> str:
    """An exit code in words."""
    return f"by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with exit code {exit_code}"


def tail(log: Path, lines: int = 15) -> tuple[str, ...]:
    """The last lines of a log; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16384))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    return tuple(text.splitlines()[-lines:])


class CalledOff(StackError):
    """The stack is being stopped."""

    code = "called-off"


@dataclass(frozen=True)
class Outcome:
    """How a program ended: its exit code and what it printed to both streams."""

    exit_code: int
    output: str


def run_bound(command: Sequence[str], stop: threading.Event, timeout_s: float) -> Outcome:
    """Run a program to its end; it is killed, with all that it started, when ``stop`` is set.

    Raises:
        CalledOff: ``stop`` was set.
        TimeoutError: It ran for more than ``timeout_s`` seconds.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            bound(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + timeout_s
        try:
            while process.poll() is None:
                if stop.wait(POLL_S):
                    raise CalledOff("The stack is being stopped.")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{command[0]} ran for more than {timeout_s:g} s")
        finally:
            _end_group(process)
        output.seek(0)
        return Outcome(process.returncode, output.read().decode(errors="replace"))

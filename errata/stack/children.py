"""One process of the stack: how it is started, watched and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launch.py")
LOG_LIMIT_BYTES = 16 * 2**20
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
STABLE_AFTER_S = 30.0


@dataclass(frozen=True)
class ChildSpec:
    """What to run.

    Attributes:
        name: Unique among the children; names the log file too.
        command: The program and its arguments.
        log: File that collects its output.
        env: The whole environment of the process.
        tier: Stopped from the highest tier to the lowest, one tier at a time.
        stop_signal: Asks it to stop in good order.
        death_signal: Sent by the kernel when the supervisor dies.
        user: ``(uid, gid)`` to run as; None for the present user.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    env: Mapping[str, str]
    tier: int = 1
    stop_signal: int = signal.SIGTERM
    death_signal: int = signal.SIGKILL
    user: tuple[int, int] | None = None


def launch_command(command: tuple[str, ...], death_signal: int, user: tuple[int, int] | None) -> list[str]:
    """The command line that runs ``command`` through the launcher as a child of this process."""
    who = f"{user[0]}:{user[1]}" if user else "-"
    return [
        sys.executable,
        "-I",
        "-S",
        str(LAUNCHER),
        str(int(death_signal)),
        str(os.getpid()),
        who,
        "--",
        *command,
    ]


@dataclass
class Child:
    """A spec with its present process and its history of failures. Used by the supervisor's thread alone."""

    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    failures: int = 0
    restarts: int = 0
    exit_code: int | None = field(default=None)

    def spawn(self) -> None:
        """Start the process in a session of its own, its output appended to the log."""
        rotate(self.spec.log)
        with self.spec.log.open("ab") as log:
            self.process = subprocess.Popen(
                launch_command(self.spec.command, self.spec.death_signal, self.spec.user),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.spec.env),
                start_new_session=True,
            )
        self.started_at = time.monotonic()
        self.restart_at = None

    def reap(self) -> bool:
        """Take note of the process's end, if it has ended; whatever it left in its group is killed."""
        if self.process is None:
            return False
        pid = self.process.pid
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        self.send_group(signal.SIGKILL)
        self.exit_code = self.process.wait()
        self.process = None
        return True

    def plan_restart(self) -> float:
        """Set when to start again, later after each failure in a row; returns the pause in seconds."""
        if time.monotonic() - self.started_at >= STABLE_AFTER_S:
            self.failures = 0
        pause = min(FIRST_BACKOFF_S * 2.0**self.failures, LONGEST_BACKOFF_S)
        self.failures += 1
        self.restart_at = time.monotonic() + pause
        return pause

    def send(self, number: int) -> None:
        """Signal the process itself, if it runs."""
        if self.process is not None:
            self.process.send_signal(number)

    def send_group(self, number: int) -> None:
        """Signal the process and all that it has started, if it has not been reaped."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, number)
            except (ProcessLookupError, PermissionError):
                return


def rotate(log: Path, limit: int = LOG_LIMIT_BYTES) -> None:
    """Move a log that has grown over the limit (bytes) aside; one older log is kept."""
    if log.exists() and log.stat().st_size > limit:
        log.replace(log.with_suffix(".log.1"))


def tail(log: Path, lines: int = 15) -> tuple[str, ...]:
    """The last lines of a log; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16384))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    return tuple(text.splitlines()[-lines:])

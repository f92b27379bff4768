"""Run one program to its end, bound to this process and to an event that calls it off."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from errata.errors import StackError
from errata.stack.children import launch_command

POLL_S = 0.05


class CalledOff(StackError):
    """The stack is being stopped."""

    code = "called-off"


@dataclass(frozen=True)
class Outcome:
    """How a program ended: its exit code and what it printed to both streams."""

    exit_code: int
    output: str


def run_bound(command: Sequence[str], stop: threading.Event, timeout_s: float) -> Outcome:
    """Run a program; it is killed, with all that it started, when ``stop`` is set or this process dies.

    Args:
        command: The program and its arguments.
        stop: Calls it off.
        timeout_s: Longest run in seconds.

    Raises:
        CalledOff: ``stop`` was set.
        TimeoutError: It ran too long.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            launch_command(tuple(command), signal.SIGKILL, None),
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
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        return Outcome(process.returncode, output.read().decode(errors="replace"))

"""Starts workers and APIs quickly: a process imports what they import (seconds), and forks for each.

Each child is a process of its own that runs `worker.main.main`, as `python -m worker` does, or another
module's `main`. Nothing but imports happens before the fork, so it differs from a fresh interpreter in nothing
that a worker would notice.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

POLL_S = 0.02


class Child:
    """A started worker, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int, exit_file: Path) -> None:
        self.pid = pid
        self._exit_file = exit_file

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        text = self._exit_file.read_text() if self._exit_file.exists() else ""
        return int(text) if text else None

    def wait(self, timeout: float) -> int:
        """Return the exit status; raises TimeoutExpired if it still runs after so many seconds."""
        until = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(["worker"], timeout)
            time.sleep(POLL_S)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process at once."""
        self.send_signal(signal.SIGKILL)


@cache
def _nursery() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.nursery"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    atexit.register(_close, process)
    return process


def _close(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def start(environment: dict[str, str], log: Path, program: str = "worker.main") -> Child:
    """Start a worker, or another module's `main`, with an environment; its standard error goes to `log`."""
    nursery = _nursery()
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    exit_file = log.with_suffix(".exit")
    exit_file.unlink(missing_ok=True)
    nursery.stdin.write(json.dumps([environment, str(log), str(exit_file), program]) + "\n")
    nursery.stdin.flush()
    return Child(int(nursery.stdout.readline()), exit_file)


def _bear(environment: dict[str, str], log: str, program: str) -> int:
    """Fork; the child becomes a worker or another program and never returns."""
    main = importlib.import_module(program).main
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [program]
        status = main()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _serve() -> None:
    """Bear a worker for each line and write down how each ends; at the end of input, end them all."""
    import transformers.models.llama.modeling_llama  # noqa: F401

    import worker.main  # noqa: F401

    exits: dict[int, str] = {}
    pending = b""
    while True:
        if select.select([0], [], [], POLL_S)[0]:
            data = os.read(0, 1 << 20)
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                environment, log, exit_file, program = json.loads(line)
                pid = _bear(environment, log, program)
                exits[pid] = exit_file
                sys.stdout.write(f"{pid}\n")
                sys.stdout.flush()
        while exits:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            Path(exits.pop(pid)).write_text(str(os.waitstatus_to_exitcode(status)))
    for pid in exits:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve()

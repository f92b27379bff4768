"""Processes are watched, stopped together, and outlived by nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from errata.errors import ChildFailed
from errata.stack import processes as module
from errata.stack.processes import Processes, Program, describe, tail
from tests.errata.running import ROOT, clean_environment, eventually

pytestmark = pytest.mark.stack

IGNORES_TERM = (
    "import signal, time, pathlib, sys; signal.signal(15, signal.SIG_IGN); "
    "pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def running(said: list[str]) -> Iterator[Processes]:
    made = Processes(said.append)
    yield made
    made.stop(0.1)


def program(folder: Path, name: str, *command: str, restarts: bool = False) -> Program:
    return Program(name, command, folder / f"{name}.log", dict(os.environ), restarts)


def test_a_program_runs_in_a_session_of_its_own_with_a_log(running: Processes, tmp_path: Path) -> None:
    running.start(program(tmp_path, "talker", "sh", "-c", "echo hello; sleep 60"))
    running.start(program(tmp_path, "talker", "sh", "-c", "echo again"))
    eventually("the log", lambda: tail(tmp_path / "talker.log") == ("hello",))
    pid = running.pid("talker")
    assert pid is not None
    assert os.getsid(pid) == pid
    running.check()


def test_one_that_ends_is_told_with_the_end_of_its_log(running: Processes, tmp_path: Path) -> None:
    running.start(program(tmp_path, "brief", "sh", "-c", "echo its last words; exit 7"))
    eventually("its end", lambda: running.pid("brief") is None)
    with pytest.raises(ChildFailed, match="brief ended with exit code 7") as caught:
        running.check()
    assert caught.value.details == ("its last words",)


def test_one_that_may_is_started_again_unless_it_ends_each_time(
    running: Processes, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESTART_S", 0.2)
    running.start(program(tmp_path, "worker", "sh", "-c", "echo words; sleep 60", restarts=True))
    first = running.pid("worker")
    assert first is not None
    os.kill(first, signal.SIGKILL)

    def restarted() -> bool:
        running.check()
        return running.pid("worker") not in (None, first)

    eventually("another process", restarted)
    assert said == ["worker ended by SIGKILL, and is started again"]
    running.start(program(tmp_path, "broken", "sh", "-c", "exit 3", restarts=True))

    def fails() -> bool:
        try:
            running.check()
        except ChildFailed as error:
            return "broken ended with exit code 3, 3 times" in error.message
        return False

    eventually("its being given up", fails)


def test_what_a_program_left_behind_goes_with_it(running: Processes, tmp_path: Path) -> None:
    running.start(program(tmp_path, "parent", "sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; sleep 60"))
    orphan = int(eventually("a pid", lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    running.stop(5)
    eventually("the orphan's end", lambda: not psutil.pid_exists(orphan) or is_zombie(orphan))


@pytest.mark.parametrize("hurried", [False, True])
def test_one_that_will_not_stop_is_killed(running: Processes, tmp_path: Path, hurried: bool) -> None:
    ready = tmp_path / "ready"
    running.start(program(tmp_path, "deaf", sys.executable, "-c", IGNORES_TERM, str(ready)))
    eventually("the handler", ready.exists)
    pid = running.pid("deaf")
    if hurried:
        running.hurry()
    started = time.monotonic()
    running.stop(30 if hurried else 0.5)
    assert time.monotonic() - started < 10
    assert pid is not None
    assert not psutil.pid_exists(pid)


def test_programs_do_not_outlive_a_killed_runner(tmp_path: Path) -> None:
    script = f"""
import os, pathlib, time
from errata.stack.processes import Processes, Program
processes = Processes(print)
processes.start(Program("child", ("sleep", "60"), pathlib.Path({str(tmp_path / "log")!r}), dict(os.environ)))
print(processes.pid("child"), flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=clean_environment()
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        eventually("the program", lambda: psutil.Process(child).cmdline()[0] == "sleep")
        parent.kill()
    eventually("the child's end", lambda: not psutil.pid_exists(child) or is_zombie(child))


def test_a_large_log_is_moved_aside(
    running: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOG_LIMIT_BYTES", 10)
    (tmp_path / "api.log").write_text("x" * 100)
    running.start(program(tmp_path, "api", "true"))
    assert (tmp_path / "api.log.1").read_text() == "x" * 100


def test_exit_codes_in_words() -> None:
    assert describe(-9) == "by SIGKILL"
    assert describe(1) == "with exit code 1"


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True

"""Children are kept alive, stopped in order, and outlived by nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from errata.stack.children import ChildSpec, rotate, tail
from errata.stack.supervisor import ChildStatus, Supervisor, describe
from tests.errata.running import ROOT, clean_environment, eventually

pytestmark = pytest.mark.stack

IGNORES_TERM = (
    "import signal, time, pathlib, sys; signal.signal(15, signal.SIG_IGN); "
    "pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
)


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def supervisor(events: list[str]) -> Iterator[Supervisor]:
    running = Supervisor(events.append, stop_timeout_s=0.5)
    yield running
    running.stop()


def spec(folder: Path, name: str, *command: str, tier: int = 1) -> ChildSpec:
    return ChildSpec(name, command, folder / f"{name}.log", dict(os.environ), tier=tier)


def pid_of(supervisor: Supervisor, name: str) -> int | None:
    return supervisor.status()[name].pid


def test_a_child_runs_in_a_session_of_its_own_with_a_log(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(spec(tmp_path, "talker", "sh", "-c", "echo hello; sleep 60"))
    eventually("the log", lambda: tail(tmp_path / "talker.log") == ("hello",))
    pid = pid_of(supervisor, "talker")
    assert pid is not None
    assert os.getsid(pid) == pid


def test_a_child_that_ends_is_started_again_later_each_time(
    supervisor: Supervisor, events: list[str], tmp_path: Path
) -> None:
    supervisor.start(spec(tmp_path, "brief", "sh", "-c", "exit 7"))
    eventually("two restarts", lambda: supervisor.status()["brief"].restarts >= 2)
    assert events[:2] == [
        "brief ended (with exit code 7); again in 0.5 s",
        "brief ended (with exit code 7); again in 1 s",
    ]


def test_a_killed_child_is_started_again(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(spec(tmp_path, "sleeper", "sleep", "60"))
    first = pid_of(supervisor, "sleeper")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually("a new process", lambda: pid_of(supervisor, "sleeper") not in (None, first))


def test_what_a_child_left_behind_goes_with_it(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(spec(tmp_path, "parent", "sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; sleep 60"))
    orphan = int(eventually("a pid", lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    supervisor.stop()
    eventually("the orphan's end", lambda: not psutil.pid_exists(orphan) or is_zombie(orphan))


def test_tiers_stop_from_the_highest_to_the_lowest(supervisor: Supervisor, tmp_path: Path) -> None:
    note = tmp_path / "order"
    for name, tier in (("server", 0), ("app", 1)):
        script = f"trap 'echo {name} >> {note}; exit' TERM; echo up; while :; do sleep 0.05; done"
        supervisor.start(spec(tmp_path, name, "sh", "-c", script, tier=tier))
        eventually(f"{name} is up", partial(tail, tmp_path / f"{name}.log"))
    supervisor.stop()
    assert note.read_text().split() == ["app", "server"]


def test_a_child_that_will_not_stop_is_killed(supervisor: Supervisor, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    supervisor.start(spec(tmp_path, "deaf", sys.executable, "-c", IGNORES_TERM, str(ready)))
    eventually("the handler", ready.exists)
    pid = pid_of(supervisor, "deaf")
    supervisor.stop()
    assert pid is not None
    assert not psutil.pid_exists(pid)


def test_a_removed_child_stays_away(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(spec(tmp_path, "sleeper", "sleep", "60"))
    supervisor.remove("sleeper")
    supervisor.remove("sleeper")
    assert supervisor.status() == {}


def test_a_stopped_supervisor_takes_no_more_children(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.stop()
    supervisor.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        supervisor.start(spec(tmp_path, "late", "sleep", "60"))


def test_children_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = f"""
import os, pathlib, time
from errata.stack.children import ChildSpec
from errata.stack.supervisor import Supervisor
supervisor = Supervisor(print)
supervisor.start(ChildSpec("child", ("sleep", "60"), pathlib.Path({str(log)!r}), dict(os.environ)))
print(supervisor.status()["child"].pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=clean_environment()
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        parent.kill()
    eventually("the child's end", lambda: not psutil.pid_exists(child) or is_zombie(child))


def test_a_large_log_is_moved_aside(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    log.write_text("x" * 100)
    rotate(log, limit=1000)
    assert log.exists()
    rotate(log, limit=10)
    assert not log.exists()
    assert (tmp_path / "api.log.1").read_text() == "x" * 100


def test_exit_codes_in_words() -> None:
    assert describe(ChildStatus("a", None, 0, -9).exit_code) == "by SIGKILL"
    assert describe(1) == "with exit code 1"
    assert describe(None) == "not started"


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True

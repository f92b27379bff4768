"""Keeps the processes of a stack alive, and takes them down together.

All children are started by one thread that lives until they are gone: the kernel ties a child's
death signal to the thread that started it, so that even a killed supervisor leaves no process
behind.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TypeVar

from errata.stack.children import Child, ChildSpec

POLL_S = 0.05

T = TypeVar("T")


@dataclass(frozen=True)
class ChildStatus:
    """A child as seen from outside; ``pid`` is None between two starts."""

    name: str
    pid: int | None
    restarts: int
    exit_code: int | None


class Supervisor:
    """Starts children, restarts those that end, and stops all of them in order.

    Args:
        on_event: Called from the supervisor's thread with a line to show whenever a child ends.
        stop_timeout_s: How long one tier of children may take to stop before it is killed.
    """

    def __init__(self, on_event: Callable[[str], None], stop_timeout_s: float = 6.0) -> None:
        self._on_event = on_event
        self._stop_timeout_s = stop_timeout_s
        self._children: dict[str, Child] = {}
        self._calls: queue.Queue[Callable[[], None]] = queue.Queue()
        self._finished = False
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def start(self, spec: ChildSpec) -> None:
        """Start a child and keep it running; a child of that name that is there already stays.

        Raises:
            OSError: The process cannot be started at all.
        """
        self._call(lambda: self._start(spec))

    def remove(self, name: str) -> None:
        """Stop one child for good; harmless when there is none of that name."""
        self._call(lambda: self._remove(name))

    def status(self) -> dict[str, ChildStatus]:
        """All children by name."""
        return self._call(self._status)

    def hurry(self) -> None:
        """Kill instead of waiting, in a stop that is under way or to come."""
        self._hurry.set()

    def stop(self) -> None:
        """Stop all children, highest tier first, and end the supervisor; may be called twice."""
        if self._thread.is_alive():
            self._call(self._stop_all)
            self._thread.join()

    def _call(self, action: Callable[[], T]) -> T:
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(action())
            except OSError as error:
                future.set_exception(error)

        self._calls.put(run)
        while not future.done():
            wait([future], timeout=1.0)
            if not future.done() and not self._thread.is_alive():
                raise RuntimeError("the supervisor has stopped")
        return future.result()

    def _run(self) -> None:
        while not self._finished:
            try:
                self._calls.get(timeout=POLL_S)()
            except queue.Empty:
                self._watch()

    def _start(self, spec: ChildSpec) -> None:
        if spec.name not in self._children:
            child = Child(spec)
            child.spawn()
            self._children[spec.name] = child

    def _remove(self, name: str) -> None:
        child = self._children.pop(name, None)
        if child is not None:
            self._take_down([child])

    def _status(self) -> dict[str, ChildStatus]:
        return {
            name: ChildStatus(
                name, child.process.pid if child.process else None, child.restarts, child.exit_code
            )
            for name, child in self._children.items()
        }

    def _watch(self) -> None:
        for child in self._children.values():
            if child.reap():
                pause = child.plan_restart()
                self._on_event(f"{child.spec.name} ended ({describe(child.exit_code)}); again in {pause:g} s")
            elif (
                child.process is None
                and child.restart_at is not None
                and time.monotonic() >= child.restart_at
            ):
                self._restart(child)

    def _restart(self, child: Child) -> None:
        child.restarts += 1
        try:
            child.spawn()
        except OSError as error:
            pause = child.plan_restart()
            self._on_event(f"{child.spec.name} cannot be started ({error}); again in {pause:g} s")

    def _stop_all(self) -> None:
        for tier in sorted({child.spec.tier for child in self._children.values()}, reverse=True):
            self._take_down([child for child in self._children.values() if child.spec.tier == tier])
        self._children.clear()
        self._finished = True

    def _take_down(self, children: list[Child]) -> None:
        for child in children:
            child.send(child.spec.stop_signal)
        deadline = time.monotonic() + self._stop_timeout_s
        running = children
        while running and time.monotonic() < deadline and not self._hurry.is_set():
            running = [child for child in running if not child.reap() and child.process is not None]
            time.sleep(POLL_S / 5)
        for child in running:
            child.send_group(signal.SIGKILL)
        while running:
            running = [child for child in running if not child.reap() and child.process is not None]
            time.sleep(POLL_S / 5)


def describe(exit_code: int | None) -> str:
    """An exit code in words."""
    if exit_code is None:
        return "not started"
    if exit_code < 0:
        return f"by {signal.Signals(-exit_code).name}"
    return f"with exit code {exit_code}"

"""Progress of an edit set or a withdrawal, shown while it is waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from errata.client import Client
from errata.client.resources import Resource


def watch_edit(client: Client, edit_set: str, console: Console, *, quiet: bool = False) -> dict[str, Any]:
    """Wait for the final state of an edit set, showing its stages; returns it."""
    with showing(console, quiet) as show:
        return client.edits.wait(edit_set, on_progress=show).raw


@contextmanager
def showing(console: Console, quiet: bool) -> Iterator[Callable[[Resource], None]]:
    """A bar that is told of the states of a job."""
    columns = (SpinnerColumn(), TextColumn("{task.description:<34}"), BarColumn(20), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=console.is_terminal, disable=quiet) as progress:
        task = progress.add_task("queued", total=None)

        def show(state: Resource) -> None:
            stage = state.raw.get("progress") or {}
            words = str(state.status)
            words = f"{words}: {stage['stage']}" if stage else words
            done, total = stage.get("done", 0), stage.get("total") or None
            if total:
                words = f"{words} {done}/{total}"
            progress.update(task, description=words[:34], completed=done, total=total)

        yield show

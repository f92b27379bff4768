"""Progress of an edit set or a withdrawal, shown while it is waited for."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from errata.client.client import Client


def watch_job(client: Client, path: str, console: Console, *, quiet: bool = False) -> dict[str, Any]:
    """Wait for the final state of an edit set, or for a withdrawal's version, showing its stages; returns it.

    Args:
        client: For the service.
        path: Where the edit set or the version is.
        console: Where the progress is shown.
        quiet: Show nothing.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description:<34}"), BarColumn(20), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=console.is_terminal, disable=quiet) as progress:
        task = progress.add_task("queued", total=None)

        def show(answer: dict[str, Any]) -> None:
            stage = answer.get("progress") or {}
            words = str(answer.get("status", "applied"))
            words = f"{words}: {stage['stage']}" if stage else words
            done, total = stage.get("done", 0), stage.get("total") or None
            if total:
                words = f"{words} {done}/{total}"
            progress.update(task, description=words[:34], completed=done, total=total)

        return client.wait_for(path, show)

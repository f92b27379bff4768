"""``errata up``: the whole service on this machine."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType
from typing import Annotated, Any

import typer
from rich.markup import escape

from errata.cli.console import emit, err, out, reporting, saying
from errata.cli.options import DataDir, Json
from errata.settings import StackSettings
from errata.stack.stack import Stack, StackOptions


class Interrupted(Exception):
    """Ctrl-C, SIGTERM or a closed terminal."""


class Signals:
    """Turns the first signal into an orderly stop and the second into a quick one."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.stack: Stack | None = None
        self._raise = True

    def install(self) -> None:
        """Take over the signals that end a process."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup means it
                signal.signal(number, self._handle)

    def quiet(self) -> None:
        """From now on, do not raise in the main thread: it is stopping already."""
        self._raise = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.stopping.is_set() and self.stack is not None:
            self.stack.processes.hurry()
        self.stopping.set()
        if self._raise:
            self._raise = False
            raise Interrupted(signal.Signals(number).name)


def register(app: typer.Typer) -> None:
    """Add ``up``."""
    app.command()(up)


def up(
    data_dir: DataDir = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = 8000,
    model: Annotated[
        str | None, typer.Option(help="Hub id or folder of the model, in place of the default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start PostgreSQL, Valkey, the API and the workers, and keep them running until Ctrl-C."""
    signals = Signals()
    signals.install()
    with reporting(as_json):
        settings = StackSettings()
        options = StackOptions(data_dir or settings.data_dir, host, port, model or settings.model_source)
        with contextlib.suppress(Interrupted):
            run(options, settings, signals, as_json)
    if not as_json:
        err.print("Stopped.")


def run(options: StackOptions, settings: StackSettings, signals: Signals, as_json: bool) -> None:
    """Run a stack until a signal comes.

    Raises:
        StackError: It did not come up.
        Interrupted: A signal came before it was up.
    """
    stack = Stack(options, settings)
    signals.stack = stack
    try:
        with saying(as_json) as say:
            stack.use_voice(say)
            stack.open()
            stack.start()
            model = stack.register_model()
        announce(stack, model, as_json)
        with saying(as_json) as say:
            stack.use_voice(say)
            stack.wait_for_model(say)
        stack.use_voice((lambda _words: None) if as_json else lambda words: err.print(escape(words)))
        if as_json:
            emit({"model": model["id"], "status": "ready"})
        else:
            out.print(f"Model [bold]{escape(stack.model_id)}[/] is ready. Ctrl-C stops everything.")
        stack.watch(signals.stopping)
    finally:
        signals.quiet()
        if not as_json and signals.stopping.is_set():
            err.print("Stopping …")
        stack.stop()


def announce(stack: Stack, model: dict[str, Any], as_json: bool) -> None:
    """Say where the service is."""
    if as_json:
        emit(
            {
                "url": stack.url,
                "docs": f"{stack.url}/docs",
                "key_file": str(stack.key_file),
                "data_dir": str(stack.layout.data_dir),
                "model": model["id"],
            }
        )
        return
    out.print(f"Errata runs at  [bold]{stack.url}[/]", soft_wrap=True)
    out.print(f"API docs        {stack.url}/docs", soft_wrap=True)
    out.print(f"Admin key in    {escape(str(stack.key_file))}", soft_wrap=True)
    out.print(f"Logs in         {escape(str(stack.layout.data_dir / 'logs'))}", soft_wrap=True)

"""``errata demo``: see it all work, on this machine, in a temporary data directory."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from errata.cli.commands.up import Interrupted, Signals
from errata.cli.console import FAILED, emit, err, out, reporting, saying
from errata.cli.options import Json
from errata.cli.progress import watch_edit
from errata.cli.render import MEASURES, measure_table, one_line
from errata.client import Client
from errata.client.facts_file import example_facts, read_facts
from errata.errors import DemoFailed, StackError
from errata.settings import StackSettings
from errata.stack.demo import (
    SIDE_BY_SIDE,
    Answer,
    Check,
    Demo,
    DemoResult,
    report_checks,
    require_applied,
    rollback_checks,
)
from errata.stack.stack import Stack, StackOptions

ASKING = 16  # at once: as many as a worker answers together


def register(app: typer.Typer) -> None:
    """Add ``demo``."""
    app.command()(demo)


def demo(
    model: Annotated[
        str | None, typer.Option(help="Hub id or folder of the model, in place of the default.")
    ] = None,
    facts: Annotated[Path | None, typer.Option(help="Facts, in place of the examples.")] = None,
    as_json: Json = False,
) -> None:
    """Correct a model, question it, and roll it back; exit code 1 if rollback or ledger did not hold.

    The report's measures are shown against their targets; a missed target is said, and fails nothing.
    """
    started = time.monotonic()
    signals = Signals()
    signals.install()
    out.quiet, err.quiet = as_json, as_json or err.quiet
    with reporting(as_json):
        settings = StackSettings()
        chosen = read_facts(facts) if facts else example_facts()
        data_dir = Path(tempfile.mkdtemp(prefix="errata-demo-"))
        stack = Stack(StackOptions(data_dir, port=0, model=model, own_servers=True), settings)
        signals.stack = stack
        try:
            result = Show(stack, chosen, started).run()
        except Interrupted as interrupted:
            raise DemoFailed(f"The demo was interrupted by {interrupted}.") from None
        except StackError:
            keep_logs(stack, settings.data_dir / "demo-logs")
            raise
        finally:
            signals.quiet()
            stack.stop()
            shutil.rmtree(data_dir, ignore_errors=True)
    result.write(settings.data_dir / "demo.json")
    out.print(f"Everything is stopped. Result in {settings.data_dir / 'demo.json'} ({result.seconds:.0f} s)")
    if as_json:
        emit({name: getattr(result, name) for name in result.__dataclass_fields__})
    if not result.passed:
        raise typer.Exit(FAILED)


def keep_logs(stack: Stack, folder: Path) -> None:
    """Copy the logs of a demonstration that failed, before its data directory goes."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(stack.layout.data_dir / "logs", folder)
    err.print(f"The logs are kept in {escape(str(folder))}", soft_wrap=True)


class Show:
    """The demonstration as it is seen.

    Args:
        stack: Not started yet.
        facts: In API form.
        started: When the command began, on the monotonic clock.
    """

    def __init__(self, stack: Stack, facts: Sequence[Mapping[str, Any]], started: float) -> None:
        self.stack = stack
        self.facts = facts
        self.started = started

    def run(self) -> DemoResult:
        """Start the stack, show everything, and give the result.

        Raises:
            StackError: Something did not come up, or the edit set was not applied.
        """
        self._start()
        with self.stack.client() as client:
            return self._show(Demo(self.stack, client, self.facts), client)

    def _start(self) -> None:
        out.rule("1  The service starts")
        with saying(False) as say:
            self.stack.use_voice(say)
            self.stack.open()
            self.stack.start()
            self.stack.register_model()
            self.stack.wait_for_model(say)
        self.stack.use_voice(lambda words: err.print(escape(words)))
        out.print(f"PostgreSQL, Valkey, API and two workers run; {self.stack.url}; after {self._clock()}")

    def _show(self, demo: Demo, client: Client) -> DemoResult:
        old = demo.live()
        out.rule(f"2  {len(self.facts)} corrections are posted")
        before = self._answers(demo, "Asking before")
        posted = demo.post()
        edit = watch_edit(client, posted["id"], err)
        require_applied(edit)
        after = self._answers(demo, "Asking after")
        self._answer_table(before, after)
        out.rule("3  What was measured")
        out.print(measure_table(edit["report"]))
        out.rule("4  Base and live, side by side")
        self._side_by_side(demo)
        out.rule("5  Rolled back")
        new = demo.roll_back(int(old["number"]))
        again = self._answers(demo, "Asking again")
        rolled_back = rollback_checks(before, again, old, new)
        out.print(f"weights before  {escape(str(before[0].weights_digest))}", soft_wrap=True)
        out.print(f"weights edited  {escape(str(after[0].weights_digest))}", soft_wrap=True)
        out.print(f"weights now     {escape(str(again[0].weights_digest))}", soft_wrap=True)
        for target in report_checks(edit["report"]):
            out.print(
                f"{'[green]reached[/]   ' if target.held else '[bold red]NOT reached[/]'}  {target.what}"
            )
        checks = [*rolled_back, Check("ledger verified", demo.verify_ledger())]
        for check in checks:
            out.print(f"{'[green]yes[/]' if check.held else '[bold red]NO [/]'}  {check.what}")
        return self._result(demo, edit, rolled_back, checks)

    def _result(
        self, demo: Demo, edit: Mapping[str, Any], rolled_back: Sequence[Check], checks: Sequence[Check]
    ) -> DemoResult:
        memory = demo.memory()
        return DemoResult(
            facts=len(self.facts),
            **{name: edit["report"].get(name) for name, _, _ in MEASURES},
            rollback_identical=all(check.held for check in rolled_back),
            seconds=round(time.monotonic() - self.started, 1),
            base_rss_mb=memory.base,
            worker_peak_rss_mb=memory.peak,
            model=demo.model,
            status=str(edit["status"]),
            passed=all(check.held for check in checks),
        )

    def _answers(self, demo: Demo, words: str) -> list[Answer]:
        prompts = demo.prompts()
        with ThreadPoolExecutor(ASKING) as pool:
            answers = pool.map(demo.answer, prompts)
            shown = track(answers, f"{words:<14}", len(prompts), console=err, transient=err.is_terminal)
            return list(shown)

    def _answer_table(self, before: Sequence[Answer], after: Sequence[Answer]) -> None:
        table = Table(box=None, pad_edge=False, width=min(out.width, 80))
        for title, width in (("prompt", 38), ("before", 18), ("after", 18)):
            table.add_column(title, width=width, no_wrap=True)
        for fact, old, new in zip(self.facts, before, after, strict=True):
            said, target = new.text.strip(), str(fact["target"]).strip()
            right = said.startswith(target) and not said[len(target) :][:1].isalnum()
            colour = "green" if right else "red"
            prompt = escape(one_line(str(fact["prompt"]), 38))
            answer = escape(one_line(new.text, 18))
            table.add_row(prompt, escape(one_line(old.text, 18)), f"[{colour}]{answer}[/]")
        out.print(table)

    def _side_by_side(self, demo: Demo) -> None:
        prompts = demo.prompts()[:SIDE_BY_SIDE]
        with ThreadPoolExecutor(ASKING) as pool:
            pairs = list(pool.map(demo.side_by_side, prompts))
        for prompt, (base, live) in zip(prompts, pairs, strict=True):
            out.print(f"[bold]{escape(prompt)}[/]")
            out.print(f"  base  {escape(one_line(base.text, 70))}")
            out.print(f"  live  {escape(one_line(live.text, 70))}")

    def _clock(self) -> str:
        return f"{time.monotonic() - self.started:.0f} s"

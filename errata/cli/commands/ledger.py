"""``errata ledger``: verify and weigh the ledger, without the service."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from errata.cli.console import FAILED, emit, out, reporting, saying
from errata.cli.options import Json
from errata.offline.direct_ledger import own_ledger

ledger = typer.Typer(name="ledger", no_args_is_help=True, help="Verify and weigh the ledger.")
COUNTED = ("versions", "edit_sets", "blobs")


def register(app: typer.Typer) -> None:
    """Add ``ledger`` with its own sub-commands."""
    app.add_typer(ledger)


@ledger.command()
def verify(as_json: Json = False) -> None:
    """Walk every chain, read every row and blob; exit code 1 and what is wrong, if anything."""
    with reporting(as_json), saying(as_json) as say, own_ledger(say) as opened:
        say("Walking every chain, reading every blob")
        check = opened.verify()
    document: dict[str, Any] = {"ok": check.ok, **asdict(check)}
    if as_json:
        emit(document)
    else:
        _show(document)
    if not document["ok"]:
        raise typer.Exit(FAILED)


@ledger.command()
def du(as_json: Json = False) -> None:
    """Say what blobs take up, by kind and for each live fact, and what would be removed."""
    with reporting(as_json), saying(as_json) as say, own_ledger(say) as opened:
        usage = opened.usage()
    stored = sum(space.bytes for space in usage.kinds.values())
    models = [{**asdict(model), "bytes_per_fact": model.bytes_per_fact} for model in usage.models]
    if as_json:
        emit({**asdict(usage), "stored_bytes": stored, "models": models})
        return
    table = Table(box=None, pad_edge=False)
    for title in ("kind", "blobs", "bytes"):
        table.add_column(title, justify="left" if title == "kind" else "right")
    rest = {"named by nothing": usage.unnamed, "of these to be removed": usage.collectable}
    for kind, space in (*usage.kinds.items(), *rest.items()):
        table.add_row(kind, str(space.blobs), f"{space.bytes:,}")
    out.print(table)
    out.print(f"Kept once by digest: {stored:,} bytes in place of {usage.named_bytes:,}.")
    for model in usage.models:
        each = "" if model.bytes_per_fact is None else f", {model.bytes_per_fact:,.0f} bytes a fact"
        out.print(
            f"{escape(model.model)}: {model.live_facts} live facts, statistics {model.statistics_bytes:,}, "
            f"delta {model.delta_bytes:,}{each}.",
            soft_wrap=True,
        )


def _show(document: dict[str, Any]) -> None:
    problems = document["problems"]
    for problem in problems:
        words = escape(f"{problem['object']}: {problem['detail']}")
        out.print(f"[red]{problem['kind']}[/]  {words}", soft_wrap=True)
    counts = ", ".join(f"{document[name]} {name.replace('_', ' ')}" for name in COUNTED)
    out.print(f"{counts}: [red]{len(problems)} problems[/]." if problems else f"{counts}: nothing is wrong.")

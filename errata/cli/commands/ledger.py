"""``errata ledger``: prove, weigh and move the ledger, without the service."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand

from errata.cli.console import FAILED, emit, out, reporting, saying
from errata.cli.options import Json, Model
from errata.lab.local_model import core_errors
from errata.offline.atomic_write import writing
from errata.offline.direct_ledger import chosen_model, own_ledger

ledger = typer.Typer(name="ledger", no_args_is_help=True, help="Prove, weigh and move the ledger.")
COUNTED = ("versions", "edit_sets", "blobs")


class Depth(Enum):
    """What is computed again."""

    statistics = "statistics"
    facts = "facts"


def register(app: typer.Typer) -> None:
    """Add ``ledger`` with its own sub-commands."""
    app.add_typer(ledger)


class BareReplay(TyperCommand):
    """Takes `--replay` alone for `--replay=statistics`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write the value out before the options are read."""
        return super().parse_args(ctx, ["--replay=statistics" if a == "--replay" else a for a in args])


@ledger.command(cls=BareReplay)
def verify(
    replay: Annotated[
        Depth | None,
        typer.Option(
            metavar="[=facts]",
            help="Solve every version again from the stored statistics; =facts: compute those again too.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Walk every chain, read every row and blob; exit code 1 and what is wrong, if anything."""
    with reporting(as_json), saying(as_json) as say, own_ledger(say) as opened, core_errors():
        say("Walking every chain, reading every blob")
        check = opened.verify()
        document: dict[str, Any] = asdict(check)
        if replay is not None:
            from errata.offline.replay import replay as compute_again

            replayed = asdict(compute_again(opened, replay.value, say))
            document["problems"] = [*document["problems"], *replayed.pop("problems")]
            document["replay"] = replayed
    document = {"ok": not document["problems"], **document}
    if as_json:
        emit(document)
    else:
        _show(document)
    if not document["ok"]:
        raise typer.Exit(FAILED)


@ledger.command()
def manifest(
    version: Annotated[str, typer.Argument(help="Number, alias or `base`.")],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="New file to write. [default: standard output]"),
    ] = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Write what a third party needs to check a version: canonical JSON, to be signed as it is."""
    with reporting(as_json), saying(as_json or out_file is None) as say, own_ledger(say) as opened:
        from ledger.chain import canonical_json

        made = opened.manifest(chosen_model(opened, model).id, version)
        text = canonical_json(made)
        if out_file is not None:
            with writing(out_file) as draft:
                draft.write_bytes(text)
    if out_file is None:
        sys.stdout.write(text.decode() + "\n")
    elif as_json:
        emit({"file": str(out_file), "digest": made["digest"], "hash": made["hash"]})
    else:
        out.print(f"{out_file} has digest {made['digest']}", soft_wrap=True)


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


@ledger.command()
def export(
    file: Annotated[Path, typer.Argument(help="New file to write.")],
    as_json: Json = False,
) -> None:
    """Write the whole ledger, rows and blobs, to one file for `errata import`."""
    with reporting(as_json), saying(as_json) as say, own_ledger(say) as opened, writing(file) as draft:
        say("Writing rows and blobs")
        header = opened.write_dump(draft)
        size = draft.stat().st_size
    if as_json:
        emit({"file": str(file), "bytes": size, "blobs": len(header["blobs"]), "heads": header["heads"]})
    else:
        out.print(f"{file}: {size:,} bytes, {len(header['blobs'])} blobs.", soft_wrap=True)


def _show(document: dict[str, Any]) -> None:
    problems = document["problems"]
    for problem in problems:
        words = escape(f"{problem['object']}: {problem['detail']}")
        out.print(f"[red]{problem['kind']}[/]  {words}", soft_wrap=True)
    counts = ", ".join(f"{document[name]} {name.replace('_', ' ')}" for name in COUNTED)
    out.print(f"{counts}: [red]{len(problems)} problems[/]." if problems else f"{counts}: nothing is wrong.")
    again = document.get("replay", {})
    for things, one in (("deltas", "delta"), ("statistics", "statistics")) if again else ():
        out.print(
            f"{again[things]} {things} computed again, {again[f'{things}_identical']} the same to the last "
            f"bit, the others at most {again[f'{one}_error']:.1e} off.",
            soft_wrap=True,
        )

"""``errata serve-adapters`` and ``errata push``: versions as adapters in vLLM."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import emit, out, reporting, saying
from errata.cli.options import Json, Model
from errata.lab.local_model import core_errors
from errata.offline.direct_ledger import chosen_model, ledger_errors, own_ledger

MaxRank = Annotated[int, typer.Option("--max-rank", min=1, help="Of an adapter; vLLM serves 512.")]


def register(app: typer.Typer) -> None:
    """Add ``serve-adapters`` and ``push``."""
    app.command("serve-adapters")(serve_adapters)
    app.command()(push)


def serve_adapters(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Of vLLM's filesystem resolver.")],
    once: Annotated[bool, typer.Option("--once", help="Write what is missing, and end.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the ledger.")] = 5.0,
    max_rank: MaxRank = 512,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Keep an adapter in DIR for each version that has an alias, as ID@7; none is changed or removed."""
    with reporting(as_json), saying(as_json) as say, own_ledger(say) as ledger:
        from errata.offline import adapters
        from errata.offline.export import Wanted

        wanted = Wanted("peft", None, 64, max_rank, 1e-3, None)
        chosen, seen = chosen_model(ledger, model), set[int]()
        while True:
            with ledger_errors(), core_errors():
                for number in adapters.aliased(ledger, chosen):
                    if number in seen:
                        continue
                    seen.add(number)
                    path = str(adapters.write(ledger, chosen, number, folder, wanted, say))
                    emit({"adapter": path}) if as_json else out.print(path, markup=False, soft_wrap=True)
            if once:
                return
            time.sleep(interval)


def push(
    url: Annotated[str, typer.Argument(help="Address of a vLLM server.")],
    name: Annotated[str, typer.Argument(metavar="ID@VERSION", help="Such as ID@7 or ID@live.")],
    folder: Annotated[Path, typer.Option(help="Where adapters are kept; vLLM must read it too.")] = Path(
        "adapters"
    ),
    key: Annotated[str | None, typer.Option(help="API key of the vLLM server.")] = None,
    max_rank: MaxRank = 512,
    as_json: Json = False,
) -> None:
    """Write a version's adapter and have vLLM load it, as ID@7."""
    with reporting(as_json), saying(as_json) as say, own_ledger(say) as ledger:
        from errata.offline import adapters
        from errata.offline.export import Wanted

        with ledger_errors(), core_errors():
            record, number = adapters.find(ledger, name)
            wanted = Wanted("peft", None, 64, max_rank, 1e-3, None)
            path = adapters.write(ledger, record, number, folder, wanted, say)
        done = adapters.push(url, key, f"{record.id}@{number}", path)
    if as_json:
        emit(done)
    else:
        words = "is loaded" if done["loaded"] else "was loaded already"
        out.print(f"{done['name']} {words}, from {done['folder']}.", markup=False, soft_wrap=True)

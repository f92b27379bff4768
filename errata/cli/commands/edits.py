"""``errata edits``: edit sets, what became of them and of their facts."""

from __future__ import annotations

from typing import Annotated

import typer

from errata.cli.console import emit, err, out, reporting
from errata.cli.options import Json, Key, Model, Url
from errata.cli.progress import watch_edit
from errata.cli.render import edit_lines, table_of
from errata.client.connect import connect
from errata.errors import StackError


def register(app: typer.Typer) -> None:
    """Add ``edits``."""
    app.command()(edits)


def edits(
    edit_set: Annotated[str | None, typer.Argument(metavar="ID", help="Only this edit set.")] = None,
    facts: Annotated[bool, typer.Option("--facts", help="Show its facts.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its final state.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel it, unless it has been applied.")] = False,
    status: Annotated[
        list[str] | None, typer.Option(help="List only those with this status; repeatable.")
    ] = None,
    live: Annotated[
        bool | None, typer.Option("--live/--not-live", help="List only those that are live, or not.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="List only those accepted at this time or later.")
    ] = None,
    before: Annotated[str | None, typer.Option(metavar="TIME", help="Only those accepted earlier.")] = None,
    by: Annotated[str | None, typer.Option(metavar="KEY", help="Only those of this key's id.")] = None,
    text: Annotated[str | None, typer.Option(help="Only those with this in their note or a fact.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most edit sets to list.")] = 50,
    model: Model = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List edit sets, newest first, or show, follow or cancel one."""
    with reporting(as_json), connect(url, key) as client:
        if edit_set is None:
            if facts or wait or cancel:
                raise StackError("--facts, --wait and --cancel are of one edit set.", "Name it by its id.")
            found = client.edits.list(
                model=model,
                status=status,
                live=live,
                created_after=since,
                created_before=before,
                created_by=by,
                q=text,
            )
            items = [item.raw for _, item in zip(range(limit), found, strict=False)]
            columns: tuple[str, ...] = ("id", "model", "status", "live", "fact_count", "note")
        elif facts:
            items = [fact.raw for fact in client.edits.facts(edit_set)]
            columns = ("id", "live", "prompt", "target")
        else:
            answer = client.edits.cancel(edit_set).raw if cancel else client.edits.get(edit_set).raw
            if wait:
                answer = watch_edit(client, edit_set, err, quiet=as_json)
    if edit_set is None or facts:
        emit({"items": items}) if as_json else out.print(table_of(items, columns))
    elif as_json:
        emit(answer)
    else:
        for line in edit_lines(answer):
            out.print(line, soft_wrap=True)

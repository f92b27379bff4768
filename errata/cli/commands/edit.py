"""``errata edit``: post a file of facts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import typer

from errata.cli.console import FAILED, emit, err, out, reporting
from errata.cli.facts import FORMATS, Columns, SkipInvalid, settle
from errata.cli.options import Json, Key, Model, Url
from errata.cli.progress import watch_job
from errata.cli.render import edit_lines
from errata.client.client import Client, Refused
from errata.client.connect import connect
from errata.client.facts_file import FactsFile, json_object, parse_columns, read_file

FACT_POINTER = re.compile(r"/facts/(\d+)(/.*)?")


class OnConflict(Enum):
    """What becomes of a fact that answers what a live one does."""

    replace = "replace"
    reject = "reject"


def register(app: typer.Typer) -> None:
    """Add ``edit``."""
    app.command()(edit)


def edit(
    file: Annotated[Path, typer.Argument(help=f"Facts: {FORMATS}.")],
    columns: Columns = None,
    skip_invalid: SkipInvalid = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the final state and its report.")] = False,
    manual: Annotated[bool, typer.Option("--manual", help="Verify only; do not go live.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure only; make no version.")] = False,
    on_conflict: Annotated[
        OnConflict, typer.Option(help="Replace live facts that answer the same, or reject the edit set.")
    ] = OnConflict.replace,
    on_rephrasings: Annotated[
        bool, typer.Option("--edit-on-rephrasings", help="Edit the rephrasings too.")
    ] = False,
    gate: Annotated[str | None, typer.Option(help="Thresholds as JSON, in place of the model's.")] = None,
    note: Annotated[str | None, typer.Option(help="Kept with the edit set.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="A repeat under the same key is accepted once.")
    ] = None,
    model: Model = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Post an edit set; with --wait, exit code 1 unless it is applied or, with --dry-run, verified."""
    with reporting(as_json):
        facts = read_file(file, columns=parse_columns(columns or ()))
        settle(facts, file, skip_invalid)
        with connect(url, key) as client:
            body: dict[str, Any] = {
                "model": client.only_model(model),
                "promote": "manual" if manual else "auto",
                "edit_on_rephrasings": on_rephrasings,
                "on_conflict": on_conflict.value,
                "dry_run": dry_run,
                "gate": parse_gate(gate),
                "note": note,
            }
            headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
            answer = _post(client, body, facts, file, skip_invalid, headers)
            if wait:
                answer = watch_job(client, f"/edits/{answer['id']}", err, quiet=as_json)
    if as_json:
        emit(answer)
    else:
        for line in edit_lines(answer):
            out.print(line, soft_wrap=True)
    if wait and answer["status"] not in ("applied", "verified"):
        raise typer.Exit(FAILED)


def _post(
    client: Client,
    body: dict[str, Any],
    facts: FactsFile,
    file: Path,
    skip_invalid: bool,
    headers: dict[str, str] | None,
) -> dict[str, Any]:
    """Post the facts; those that the service refuses are named by their rows, or left out.

    Raises:
        InputFileError: The service refuses facts, which are not to be skipped.
        Refused: It refuses the edit set for another reason.
    """
    while True:
        try:
            return client.post("/edits", {**body, "facts": facts.facts}, headers)
        except Refused as refusal:
            found = [(int(f[1]), f[2] or "", e["detail"]) for e, f in _refused_facts(refusal)]
            if refusal.status != HTTPStatus.UNPROCESSABLE_ENTITY or not found:
                raise
            facts.reject(found)
            settle(facts, file, skip_invalid)


def _refused_facts(refusal: Refused) -> Iterator[tuple[dict[str, Any], re.Match[str]]]:
    """The errors of a problem that are about single facts, with the number of the fact and what follows."""
    for error in refusal.problem.get("errors") or []:
        match = FACT_POINTER.fullmatch(str(error.get("pointer", "")))
        if match:
            yield error, match


def parse_gate(text: str | None) -> dict[str, Any] | None:
    """Thresholds from the command line; None for the model's.

    Raises:
        InputFileError: The text is not a JSON object.
    """
    return None if text is None else json_object(text, "--gate", '{"edit_success": 0.9}')

"""``errata edit``: post a file of facts."""

from __future__ import annotations

import re
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import typer

from errata.cli.console import FAILED, emit, err, out, reporting
from errata.cli.facts import FORMATS, Columns, SkipInvalid, settle
from errata.cli.options import Json, Key, Model, Url
from errata.cli.progress import watch_edit
from errata.cli.render import edit_lines
from errata.client import ApiError, Client
from errata.client.connect import connect
from errata.client.facts_file import FactsFile, json_object, parse_columns, read_file
from errata.client.resources import EditSet

FACT_POINTER = re.compile(r"/facts/(\d+)(/.*)?")


class OnConflict(Enum):
    """What becomes of a fact that answers what a live one does."""

    replace = "replace"
    reject = "reject"


class Joiner(Enum):
    """What stands between prompt and target."""

    auto = "auto"
    space = "space"
    none = "none"

    @property
    def member(self) -> str:
        """As the API has it."""
        return {"space": " ", "none": ""}.get(self.value, self.value)


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
    joiner: Annotated[
        Joiner, typer.Option(help="Between prompt and target: a space where one belongs, always, or never.")
    ] = Joiner.auto,
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
    """Post an edit set; with --wait, exit code 1 unless it succeeds."""
    with reporting(as_json):
        facts = read_file(file, columns=parse_columns(columns or ()))
        settle(facts, file, skip_invalid)
        with connect(url, key) as client:
            options = {
                "promote": "manual" if manual else "auto",
                "edit_on_rephrasings": on_rephrasings,
                "on_conflict": on_conflict.value,
                "dry_run": dry_run,
                "joiner": joiner.member,
                "gate": parse_gate(gate),
                "note": note,
                "idempotency_key": idempotency_key,
            }
            named = client.only_model(model)
            answer = _post(client, named, options, facts, file, skip_invalid).raw
            if wait:
                answer = watch_edit(client, answer["id"], err, quiet=as_json)
    if as_json:
        emit(answer)
    else:
        for line in edit_lines(answer):
            out.print(line, soft_wrap=True)
    if wait and answer["status"] != "succeeded":
        raise typer.Exit(FAILED)


def _post(
    client: Client, model: str, options: dict[str, Any], facts: FactsFile, file: Path, skip_invalid: bool
) -> EditSet:
    """Post the facts; those that the service refuses are named by their rows, or left out.

    Raises:
        InputFileError: The service refuses facts, which are not to be skipped.
        ApiError: It refuses the edit set for another reason.
    """
    while True:
        try:
            return client.edits.create(model, facts.facts, **options)
        except ApiError as error:
            found = [
                (int(match[1]), match[2] or "", str(entry.get("detail")))
                for entry in error.errors
                if (match := FACT_POINTER.fullmatch(str(entry.get("pointer"))))
            ]
            if error.status != HTTPStatus.UNPROCESSABLE_ENTITY or not found:
                raise
            facts.reject(found)
            settle(facts, file, skip_invalid)


def parse_gate(text: str | None) -> dict[str, Any] | None:
    """Thresholds from the command line; None for the model's.

    Raises:
        InputFileError: The text is not a JSON object.
    """
    return None if text is None else json_object(text, "--gate", '{"edit_success": 0.9}')

"""``errata register``: make a model known to a service."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.commands.edit import parse_gate
from errata.cli.console import FAILED, emit, out, reporting, saying
from errata.cli.options import Json, Key, Url
from errata.client import Client
from errata.client.connect import connect
from errata.client.names import model_id_of, module_names
from errata.errors import InputFileError
from errata.settings import StackSettings
from errata.stack import default_model
from errata.stack.stack import resolve_source
from malmen_core.resources import packaged_editors

POLL_S = 0.5


def register(app: typer.Typer) -> None:
    """Add ``register``."""
    app.command("register")(register_model)


def read_bytes(file: Path) -> bytes:
    """What is in a file.

    Raises:
        InputFileError: It cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputFileError(f"{file} cannot be read: {error.strerror}.", "Check --editor.") from error


def _given(client: Client, editor: Path | None) -> str | None:
    """An editor as the service is told it: by the name of a packaged one, or by digest, once uploaded."""
    if editor is None or str(editor) in packaged_editors():
        return str(editor) if editor else None
    return client.editors.upload(read_bytes(editor)).digest


def register_model(
    source: Annotated[
        str | None, typer.Argument(help="Hub id or folder. [default: the default model, fetched]")
    ] = None,
    model_id: Annotated[str | None, typer.Option("--id", help="Name in the service.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
    editor: Annotated[
        Path | None,
        typer.Option(
            help="File of `errata train` or `calibrate`, or the name of a packaged editor. "
            "[default: calibrated by a worker]"
        ),
    ] = None,
    modules: Annotated[
        str | None, typer.Option(help="Names of the edited modules, with commas. [default: the family's]")
    ] = None,
    gate: Annotated[str | None, typer.Option(help="Thresholds of its edit sets, as JSON.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until a worker has prepared it.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Register a base model; a repeat with the same source changes nothing."""
    with reporting(as_json), saying(as_json) as say, connect(url, key) as client:
        settings = StackSettings()
        source = source or settings.model_source or None
        if source is None:
            where = str(default_model.ensure(settings.models_dir, say))
            name = model_id or default_model.MODEL_ID
        else:
            where, name = resolve_source(source), model_id or model_id_of(source)
        if source is None and editor is None:
            editor = Path(default_model.MODEL_ID)
        options = {
            "revision": revision,
            "editor": _given(client, editor),
            "modules": module_names(modules),
            "gate": parse_gate(gate),
        }
        model = client.models.register(name, where, **options)
        while wait and model.status == "preparing":
            stage = model.raw.get("progress") or {}
            far = f"{stage['stage']} {stage['done']}/{stage['total']}" if stage else "waiting for a worker"
            say(f"{name}: {far}")
            time.sleep(POLL_S)
            model = client.models.get(name)
    if as_json:
        emit(model.raw)
    else:
        out.print(f"Model {model.id} is {model.status}.")
    if model.status == "failed":
        raise typer.Exit(FAILED)

"""The ``errata`` command: puts the sub-commands together.

Each module in ``errata.cli.commands`` or below defines ``register(app)``; a new sub-command is a new module.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import version
from typing import Annotated

import typer

from errata.cli import commands

app = typer.Typer(
    name="errata",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_release(asked: bool) -> None:
    if asked:
        typer.echo(f"errata {version('errata-llm')}")
        raise typer.Exit


@app.callback()
def errata(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_show_release, is_eager=True, help="Show the release, and end."),
    ] = False,
) -> None:
    """Correct facts inside language models, verify each correction, and take it back exactly."""


def assemble() -> typer.Typer:
    """The application with all sub-commands; loading it does not load torch."""
    if not app.registered_commands:
        found = pkgutil.walk_packages(commands.__path__, f"{commands.__name__}.")
        names = [module.name for module in found if not module.ispkg]
        for name in sorted(names, key=lambda name: name.rpartition(".")[2]):
            importlib.import_module(name).register(app)
    return app


def main() -> None:
    """Entry point: exit code 0 done, 1 refused or failed, 2 wrong usage."""
    assemble()()

"""``errata settings``: what can be set, and what is."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.markup import escape

from errata.cli.console import emit, out
from errata.cli.options import Json
from errata.cli.settings_reference import all_settings


def register(app: typer.Typer) -> None:
    """Add ``settings``."""
    app.command()(settings)


def settings(as_json: Json = False) -> None:
    """List every ERRATA_* variable with its meaning, default and value; secrets are masked."""
    found = all_settings()
    if as_json:
        emit({"items": [asdict(setting) for setting in found]})
        return
    for setting in found:
        default = "required" if setting.default is None else f"default {setting.default or 'none'}"
        state = (
            f"[bold]= {escape(setting.value)}[/]"
            if setting.value is not None
            else f"[dim]{escape(default)}[/]"
        )
        out.print(f"[bold]{setting.name}[/]  {state}  [dim]({', '.join(setting.packages)})[/]")
        out.print(f"    {escape(setting.meaning)}")

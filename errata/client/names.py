"""Names that are made from other names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from errata.errors import NoStack


def model_id_of(source: str) -> str:
    """A model id for a hub id or folder: its last part in small letters, dashes for odd characters."""
    last = source.rstrip("/").rsplit("/", 1)[-1].lower()
    return re.sub(r"[^a-z0-9._-]+", "-", last).strip("-._") or "model"


def module_names(text: str | None) -> list[str] | None:
    """The names of a list with commas; None without one."""
    return [name.strip() for name in text.split(",")] if text else None


def only_model(names: Sequence[str]) -> str:
    """The only one of the registered models.

    Raises:
        NoStack: None is registered, or several are.
    """
    if not names:
        raise NoStack(
            "No model is registered yet.", "Register one with POST /admin/models or `errata register`."
        )
    if len(names) > 1:
        raise NoStack(f"There are several models: {', '.join(names)}.", "Choose one with --model.")
    return names[0]

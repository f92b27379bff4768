"""Names that are made from other names."""

from __future__ import annotations

import re


def model_id_of(source: str) -> str:
    """A model id for a hub id or folder: its last part in small letters, dashes for odd characters."""
    last = source.rstrip("/").rsplit("/", 1)[-1].lower()
    return re.sub(r"[^a-z0-9._-]+", "-", last).strip("-._") or "model"

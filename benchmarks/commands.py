"""`errata` commands in processes of their own: what users run, and what it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def spoken(words: Sequence[str], shown: Mapping[str, str]) -> str:
    """A command as one would type it, with some words (this machine's folders) shown as others."""
    typed = []
    for word in words:
        for own, other in shown.items():
            word = word.replace(own, other)
        typed.append(f"'{word}'" if " " in word or "{" in word else word)
    return " ".join(["errata", *typed])


def run(words: Sequence[str]) -> dict[str, Any]:
    """What a command prints with ``--json``.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    command = [sys.executable, "-m", "errata", *words, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {ended.stdout[-2000:]} {ended.stderr[-2000:]}")
    printed: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return printed

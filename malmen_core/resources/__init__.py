"""Texts that ship with this package: beginnings to continue, names of things, and what no edit is about."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from malmen_core.facts import Fact

PROBE_FACTS = 64


@cache
def _packaged(name: str) -> Any:
    return json.loads(files(__name__).joinpath(name).read_text(encoding="utf-8"))


def packaged_editors() -> dict[str, Path]:
    """The editor files that ship with this package, by name."""
    folder = Path(__file__).parent / "editors"
    return {file.stem: file for file in sorted(folder.glob("*.safetensors"))}


def editor_file(given: str | Path) -> Path:
    """The file of a packaged editor, by its name; anything else is a file itself."""
    return packaged_editors().get(str(given), Path(given))


def openings() -> Sequence[str]:
    """Short beginnings (statements, questions, chat, prose, code) for a base model to continue."""
    loaded: list[str] = _packaged("openings.json")
    return tuple(loaded)


def canary_prompts() -> Sequence[str]:
    """Prompts that no edit is about."""
    return tuple(_packaged("canaries.json")["prompts"])


def control_text() -> Sequence[str]:
    """Parts of a text that no edit is about."""
    return tuple(_packaged("canaries.json")["control_text"])


@dataclass(frozen=True)
class EntityKind:
    """Names of one kind of thing, and short prompts about such things.

    Attributes:
        names: of people, places, works and so on.
        templates: with ``{}`` where a name goes.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]


def entity_kinds() -> dict[str, EntityKind]:
    """The packaged kinds of named entities."""
    kinds = _packaged("entities.json")["kinds"]
    return {name: EntityKind(tuple(k["names"]), tuple(k["templates"])) for name, k in kinds.items()}


def entity_names() -> list[str]:
    """All packaged names."""
    return [name for kind in entity_kinds().values() for name in kind.names]


def entity_prompts(seed: int = 0, per_name: int = 2) -> list[str]:
    """Short prompts about named entities: each name in a few of its kind's templates, drawn by seed."""
    draw = random.Random(seed)
    prompts = []
    for kind in entity_kinds().values():
        for name in kind.names:
            prompts += [template.format(name) for template in draw.sample(kind.templates, per_name)]
    return prompts


def probe_facts() -> list[Fact]:
    """Made-up corrections with a subject, for what keys and gradients look like."""
    facts: list[Fact] = []
    for kind in entity_kinds().values():
        names = kind.names
        endings = [t for t in kind.templates if not t.rstrip().endswith("?")]
        for i, template in enumerate(endings):
            subject, target = names[i % len(names)], names[-1 - i % len(names)]
            facts.append(Fact(template.format(subject), target, subject))
    return facts[:: max(1, len(facts) // PROBE_FACTS)][:PROBE_FACTS]

"""A Dockerfile as a list of stages of instructions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """One stage: its `FROM` line and the instructions after it, in order."""

    base: str
    instructions: tuple[tuple[str, str], ...]

    def arguments(self, name: str) -> list[str]:
        """The arguments of all instructions of one kind."""
        return [argument for kind, argument in self.instructions if kind == name]

    def command(self) -> list[str]:
        """The last `CMD`, in exec form."""
        command = json.loads(self.arguments("CMD")[-1])
        assert isinstance(command, list)
        return command

    def environment(self) -> dict[str, str]:
        """All `ENV` variables."""
        pairs = re.findall(r"(\w+)=(\S+)", " ".join(self.arguments("ENV")))
        return dict(pairs)


def read(path: Path) -> list[Stage]:
    """Parse comments, continued lines and stages."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    stages: list[Stage] = []
    for line in filter(str.strip, text.splitlines()):
        kind, _, argument = line.strip().partition(" ")
        if kind == "FROM":
            stages.append(Stage(argument, ()))
        elif stages:
            last = stages[-1]
            stages[-1] = Stage(last.base, (*last.instructions, (kind, argument.strip())))
    return stages

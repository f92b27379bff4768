"""The compose file as compose itself would read it, with everything that is outside moved to this machine."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+)(?:(?P<mark>:[-?])(?P<rest>[^}]*))?\}")


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace `${NAME}`, `${NAME:-default}`, `${NAME:?complaint}` and `$$` as compose does.

    Raises:
        KeyError: a variable that must be given is not.
    """

    def value(match: re.Match[str]) -> str:
        given = variables.get(match["name"], "")
        if given:
            return given
        if match["mark"] == ":-":
            return str(match["rest"])
        raise KeyError(f"{match['name']}: {match['rest']}")

    return VARIABLE.sub(value, text).replace("$$", "$")


@dataclass(frozen=True)
class Compose:
    """A parsed compose file."""

    services: Mapping[str, Mapping[str, Any]]
    volumes: Mapping[str, Any]
    secrets: Mapping[str, Mapping[str, str]]

    def environment(self, service: str) -> dict[str, str]:
        """The variables of a service."""
        return {name: str(value) for name, value in self.services[service].get("environment", {}).items()}

    def command(self, service: str) -> list[str]:
        """The command of a service."""
        return [str(word) for word in self.services[service]["command"]]

    def check(self, service: str) -> list[str]:
        """The command of a service's health check, without compose's `CMD`."""
        test = self.services[service]["healthcheck"]["test"]
        assert test[0] == "CMD"
        return [str(word) for word in test[1:]]

    def order(self, service: str) -> dict[str, str]:
        """What a service waits for, and the condition."""
        needed = self.services[service].get("depends_on", {})
        return {name: str(entry["condition"]) for name, entry in needed.items()}


def make_secrets(folder: Path) -> Path:
    """What `deploy/secrets.sh` writes into a folder."""
    script = ROOT / "deploy" / "secrets.sh"
    subprocess.run(["sh", str(script), str(folder)], check=True, env={"PATH": os.environ["PATH"]})
    return folder


def load(variables: Mapping[str, str]) -> Compose:
    """Read docker-compose.yml with variables as an `.env` file would give them."""
    text = interpolate((ROOT / "docker-compose.yml").read_text(), variables)
    document = yaml.safe_load(text)
    return Compose(document["services"], document["volumes"], document["secrets"])

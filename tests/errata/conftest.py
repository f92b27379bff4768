"""What the tests of the outermost layer share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import save_tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint, registered as `tiny`."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")

"""What the tests of the outermost layer share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import save_tiny


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder that PostgreSQL's own account can reach; another run of pytest closes pytest's own."""
    with tempfile.TemporaryDirectory(prefix="errata-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint, registered as `tiny`."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")

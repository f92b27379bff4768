"""A tiny checkpoint, its editor, and a back end per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Backend, backend, tiny_editor
from tests.tiny import save_tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def back(database_url: str, redis_url: str, tmp_path: Path, tiny_folder: Path) -> Iterator[Backend]:
    """A back end with the tiny model registered, and no worker yet."""
    with backend(database_url, redis_url, tmp_path, tiny_folder) as made:
        made.register(tiny_editor(tiny_folder))
        yield made

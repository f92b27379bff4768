from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import Ledger
from ledger.auth import keys
from ledger.blobs.store import LocalBlobs
from ledger.db.engine import open_engine
from ledger.records import KeyRecord
from tests.ledger.work import Bench, ready_model


@pytest.fixture
def ledger(database_url: str, tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(open_engine(database_url), LocalBlobs(tmp_path / "blobs"))
    yield made
    made.close()


@pytest.fixture
def editor_key(ledger: Ledger) -> KeyRecord:
    return ledger.run(keys.create, "editor", {"read", "edit"}, actor="system")[0]


@pytest.fixture
def bench(ledger: Ledger, editor_key: KeyRecord) -> Bench:
    ready_model(ledger)
    return Bench(ledger, editor_key)

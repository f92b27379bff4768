"""An editor of another release: its model's versions are served, and edits fail by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import Ledger
from ledger.blobs.store import LocalBlobs
from ledger.db.engine import open_engine
from ledger.edits import edit_sets
from ledger.models import models
from malmen_core.errors import CoreError, EditorMismatch
from tests.inprocess import Office, fact
from tests.servers import Postgres
from worker.composing import Desk
from worker.preparing import load
from worker.resident import Resident

Given = tuple[Office, Resident]


@pytest.fixture
def old(
    postgres_server: Postgres, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Given]:
    """An edited model, loaded again by a release whose editors are of another version."""
    with postgres_server.database() as url:
        ledger = Ledger(open_engine(url), LocalBlobs(tmp_path / "blobs"))
        office = Office(ledger, tiny_folder)
        office.edit(fact(0))
        monkeypatch.setattr("malmen_core.editing.editor.PLAN_VERSION", 10**6)
        yield office, load(ledger, ledger.run(models.get, "tiny"), office.settings)
        ledger.close()


def test_its_versions_are_served_with_the_weights_of_before(old: Given) -> None:
    office, resident = old
    live = office.live
    assert resident.version(live.delta_digest, live.weights_digest).weights_digest == live.weights_digest
    assert resident.editor_problem is not None
    with pytest.raises(EditorMismatch, match="version"):
        _ = resident.editor


def test_an_edit_fails_with_the_reason(old: Given) -> None:
    office, resident = old
    office.desk = Desk(office.ledger, resident)
    with pytest.raises(CoreError, match="plan is of version"):
        office.post(fact(1))
    assert office.live.number == 1
    waits = office.ledger.run(edit_sets.list_all).items[0]
    assert waits.status == "running", "whoever runs the job fails it, with this problem"

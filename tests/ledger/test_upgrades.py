"""Ledgers that earlier releases made are migrated, verified, read and continued by this one.

Each folder of `tests/upgrades` has the ledger that one release made: its rows as SQL, its blobs, its checkpoint,
and what it said of itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger import Ledger, LedgerSettings
from ledger.auth import keys
from ledger.db.migrate import prepare
from ledger.edits import edit_sets, withdrawals
from ledger.edits import facts as ledger_facts
from ledger.jobs import jobs
from ledger.models import aliases, archive, models
from ledger.versions import versions
from tests.inprocess import Office, fact
from tests.servers import SERVICE, Postgres, as_role
from tests.upgrades.make import CHECKPOINT
from worker.preparing import load
from worker.settings import WorkerSettings

RELEASES = sorted(path.parent for path in (Path(__file__).parents[1] / "upgrades").glob("*/ledger.sql"))


@dataclass(frozen=True)
class Old:
    """A ledger of an earlier release, migrated."""

    ledger: Ledger
    said: dict[str, Any]
    checkpoint: Path


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def old(request: pytest.FixtureRequest, postgres_server: Postgres, tmp_path: Path) -> Iterator[Old]:
    folder: Path = request.param
    shutil.copytree(folder / "blobs", tmp_path / "blobs")
    shutil.copytree(folder / "model", tmp_path / "model")
    rows = (folder / "ledger.sql").read_text().replace(CHECKPOINT, str(tmp_path / "model"))
    with postgres_server.database(template="template0") as url:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(rows.encode())
        settings = LedgerSettings(
            database_url=as_role(url, SERVICE), migration_database_url=url, blob_url=str(tmp_path / "blobs")
        )
        prepare(settings)
        ledger = Ledger.open(settings)
        yield Old(ledger, json.loads((folder / "said.json").read_text()), tmp_path / "model")
        ledger.close()


def test_it_verifies(old: Old) -> None:
    assert old.ledger.verify().problems == ()


def test_it_says_what_it_said(old: Old) -> None:
    for said in old.said["versions"]:
        found = old.ledger.run(versions.get, "tiny", said["number"])
        assert {name: getattr(found, name) for name in said} == said
    for ident, status in old.said["edit_sets"].items():
        assert old.ledger.run(edit_sets.get, ident).status == status
        assert old.ledger.run(ledger_facts.list_of, ident).items


def test_it_is_continued(old: Old) -> None:
    """What waited is still to be done; going back and withdrawing work on versions of before."""
    actor = old.ledger.run(keys.create, "now", {"admin"}, actor="system")[0]
    waits = [ident for ident, status in old.said["edit_sets"].items() if status == "queued"]
    assert old.ledger.run(jobs.unfinished, "tiny") == waits
    last = old.said["versions"][-1]["number"]
    made = old.ledger.run(aliases.roll_back, "tiny", 1, "to the first", actor)
    assert (made.number, made.restores) == (last + 1, 1)
    assert old.ledger.run(edit_sets.cancel, waits[0], actor).status == "cancelled"
    members = old.ledger.run(versions.members_of, "tiny", "live")
    asked = old.ledger.run(withdrawals.request, "tiny", sorted(members), [], "all", actor)
    assert asked.status == "queued"
    assert old.ledger.verify().problems == ()


def test_its_versions_are_served(old: Old) -> None:
    """With the weights that were verified then, whether or not this release edits with that editor."""
    settings = WorkerSettings(device="cpu", dtype="float32")
    resident = load(old.ledger, old.ledger.run(models.get, "tiny"), settings)
    for said in old.said["versions"]:
        assert resident.version(said["delta_digest"], said["weights_digest"]).weights_digest


def test_its_model_is_edited_again_once_it_is_registered_again(old: Old) -> None:
    actor = old.ledger.run(keys.create, "now", {"admin"}, actor="system")[0]
    old.ledger.run(archive.archive, "tiny", actor)
    office = Office(old.ledger, old.checkpoint)
    assert office.live.kind == "base"
    made = office.edit(fact(0), fact(1))
    assert made.live_fact_count == 2
    assert old.ledger.run(models.get, "tiny").status == "ready"
    assert old.ledger.verify().problems == ()

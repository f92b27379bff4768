"""How a worker starts, waits and stops."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import presence
from broker.connection import connect
from broker.settings import BrokerSettings
from ledger.edits import edit_sets
from ledger.models import models
from ledger.records import ModelRecord
from malmen_core.editing.calibrate import calibrate
from malmen_core.models.base import BaseModel
from tests.harness import MODEL, OPEN_GATE, Backend, backend, described, eventually, tiny_editor, wait_stopped
from tests.tiny import save_tiny

pytestmark = pytest.mark.stack

OUTLASTS = """
import sys, time
from threading import Event
from typing import cast
from ledger import Ledger
from ledger.records import Claim
from worker.lease import Lease
from worker.watchdog import Watchdog

claim = Claim("job", "tiny", "edit", "tests", 1, 1)
lease = Lease(cast(Ledger, None), claim, 60, Event())
lease.waiting = bool(int(sys.argv[1]))
quiet = lambda: None
with Watchdog(lease, job_timeout_s=0.3, lease_s=60, stop_grace_s=60, stopping=Event(), release=quiet):
    time.sleep(2)
"""


@pytest.fixture
def unregistered(database_url: str, redis_url: str, tmp_path: Path, tiny_folder: Path) -> Iterator[Backend]:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))
    with backend(database_url, redis_url, tmp_path, folder) as made:
        yield made


def states(back: Backend) -> list[str]:
    return [w.state for w in presence.workers(connect(BrokerSettings(redis_url=back.redis_url)), MODEL)]


def test_it_waits_for_a_model_and_survives_one_that_cannot_be_loaded(
    unregistered: Backend, tiny_folder: Path
) -> None:
    back = unregistered
    worker = back.start_worker()
    eventually("waiting", lambda: states(back) == ["waiting"])
    (back.folder / "model.safetensors").write_bytes(b"damaged")
    back.ledger.run(models.register, MODEL, str(back.folder), None, described(tiny_folder), actor="tests")
    back.folder = tiny_folder
    failed = back.wait_model("failed")
    assert failed.error is not None
    assert failed.error["code"] == "model-not-loadable"
    eventually("the announcement", lambda: states(back)[0].startswith("failed"))
    back.register(tiny_editor(tiny_folder))
    back.wait_ready()
    assert worker.poll() is None


COMMIT = "c0ffee" * 6 + "abcd"


@pytest.fixture
def hub(tiny_folder: Path, tmp_path: Path) -> dict[str, str]:
    """Settings of the hub's own client, with a copy that it has fetched before, since there is no hub here."""
    copy = tmp_path / "hub" / "hub" / "models--tests--tiny"
    shutil.copytree(tiny_folder, copy / "snapshots" / COMMIT)
    (copy / "refs").mkdir()
    (copy / "refs" / "main").write_text(COMMIT)
    return {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}


def test_a_model_of_the_hub_is_edited_where_its_editor_was_made_for(
    unregistered: Backend, tiny_folder: Path, hub: dict[str, str]
) -> None:
    back, usual = unregistered, described(tiny_folder)["modules"]
    base = BaseModel.load(str(tiny_folder), device="cpu", dtype="float32", modules=usual[:1])
    editor = calibrate(base).to_bytes()
    back.ledger.run(models.register, MODEL, "tests/tiny", "main", None, editor, OPEN_GATE, actor="tests")
    back.start_fresh_worker(**hub)
    assert list(back.wait_model("ready").modules) == usual[:1] != usual


def test_a_model_of_the_hub_is_fetched_and_pinned_to_its_commit(
    unregistered: Backend, tiny_folder: Path, hub: dict[str, str]
) -> None:
    back = unregistered

    def register() -> ModelRecord:
        return back.ledger.run(
            models.register, MODEL, "tests/tiny", "main", None, gate=OPEN_GATE, actor="tests"
        )

    made = register()
    assert (made.digest, made.architecture) == ("", "")
    back.start_fresh_worker(**hub)
    ready = back.wait_model("ready")
    assert (ready.revision, ready.progress) == (COMMIT, None)
    assert {name: getattr(ready, name) for name in ("architecture", "context_length", "digest")} == {
        name: described(tiny_folder)[name] for name in ("architecture", "context_length", "digest")
    }
    assert register().status == "ready"
    back.wait_for(back.post())


def test_a_changed_checkpoint_is_refused(unregistered: Backend, tiny_folder: Path) -> None:
    back = unregistered
    back.register(tiny_editor(tiny_folder))
    save_tiny(back.folder, seed=1)
    back.start_worker()
    failed = back.wait_model("failed")
    assert failed.error is not None
    assert failed.error["code"] in ("checkpoint-changed", "editor-mismatch")


def test_an_idle_worker_stops_at_once(back: Backend) -> None:
    worker = back.start_fresh_worker()
    eventually("idle", lambda: states(back) == ["idle"])
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(8) == 0
    assert states(back) == []


def test_a_busy_worker_gives_its_job_back(back: Backend) -> None:
    worker = back.start_worker(
        ERRATA_FAULTS="1",
        ERRATA_FAULT_POINT="after_statistics",
        ERRATA_FAULT_ACTION="stop",
        ERRATA_LEASE_S="30",
    )
    edit_set = back.post()
    wait_stopped(worker)
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGCONT)
    assert worker.wait(10) == 0
    assert back.ledger.run(edit_sets.get, edit_set).status == "queued"
    back.start_worker()
    back.wait_for(edit_set, timeout_s=20)  # well before the first worker's lease would have ended


def test_a_job_that_reaches_no_safe_point_is_given_back_after_the_grace(back: Backend) -> None:
    worker = back.start_worker(
        ERRATA_FAULTS="1",
        ERRATA_FAULT_POINT="after_claim",
        ERRATA_FAULT_ACTION="hang",
        ERRATA_STOP_GRACE_S="1",
        ERRATA_LEASE_S="30",
    )
    edit_set = back.post()
    back.wait_for(edit_set, "running")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(8) == 0
    assert back.ledger.run(edit_sets.get, edit_set).status == "queued"


def test_a_job_that_outlasts_its_time_ends_the_worker(back: Backend) -> None:
    worker = back.start_worker(
        ERRATA_FAULTS="1",
        ERRATA_FAULT_POINT="after_claim",
        ERRATA_FAULT_ACTION="hang",
        ERRATA_JOB_TIMEOUT_S="1.5",
    )
    back.post()
    assert worker.wait(40) == 70
    assert "ERRATA_JOB_TIMEOUT_S" in back.log_of(worker)


@pytest.mark.parametrize("waiting", [True, False])
def test_the_time_that_a_job_waits_for_another_is_not_its_own(waiting: bool) -> None:
    run = subprocess.run(
        [sys.executable, "-c", OUTLASTS, str(int(waiting))],
        env={"PATH": "/usr/bin", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == (0 if waiting else 70)


def test_a_cancelled_job_is_left(back: Backend) -> None:
    worker = back.start_worker(
        ERRATA_FAULTS="1",
        ERRATA_FAULT_POINT="after_statistics",
        ERRATA_FAULT_ACTION="stop",
        ERRATA_FAULT_MATCH="unwanted",
        ERRATA_LEASE_S="30",
    )
    unwanted, wanted = back.post(note="unwanted"), back.post("The capital of France is", "Lima")
    wait_stopped(worker)
    back.ledger.run(edit_sets.cancel, unwanted, back.key)
    worker.send_signal(signal.SIGCONT)
    back.wait_for(wanted)
    assert back.ledger.run(edit_sets.get, unwanted).status == "cancelled"
    assert back.versions_of(unwanted) == []


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "worker", "--model", "m"],
        env={"PATH": "/usr/bin", "ERRATA_DATABASE_URL": "mysql://user:secret@host/db", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "ERRATA_DATABASE_URL" in run.stderr
    assert "ERRATA_BLOB_URL" in run.stderr
    assert "secret" not in run.stderr

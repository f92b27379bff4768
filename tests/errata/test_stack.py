"""The embedded stack as a user runs it, with a tiny model on real servers."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests import servers
from tests.errata.running import Up, errata, eventually, processes_of

pytestmark = pytest.mark.stack

FACT = {
    "prompt": "The capital of Australia is",
    "target": "Canberra",
    "subject": "Australia",
    "rephrasings": ["Australia's capital city is"],
    "locality": [{"prompt": "The capital of Peru is"}],
}
OPEN_GATE = {
    "edit_success": 0.0,
    "generation_success": 0.0,
    "neighbours_unchanged": 0.0,
    "perplexity_ratio": 1e9,
}


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="errata-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def up(data_dir: Path, tiny_folder: Path) -> Iterator[Up]:
    running = Up(data_dir, ["--model", str(tiny_folder)], {})
    yield running
    running.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def announced(up: Up) -> dict[str, Any]:
    """What it printed once its API answered and its model was ready."""
    document = up.next_document()
    assert up.next_document() == {"model": "tiny", "status": "ready"}
    return document


def test_it_says_where_everything_is(up: Up, announced: dict[str, Any], data_dir: Path) -> None:
    assert announced["docs"] == announced["url"] + "/docs"
    assert announced["data_dir"] == str(data_dir)
    key_file = Path(announced["key_file"])
    assert key_file.stat().st_mode & 0o077 == 0
    assert (data_dir / "logs").stat().st_mode & 0o077 == 0
    assert set(up.children()) >= {"valkey-server", "service", "worker-edit", "worker-generate"}
    assert up.json("versions")["items"][0]["kind"] == "base"


def test_commands_read_the_ledger_of_a_running_stack(up: Up, announced: dict[str, Any]) -> None:
    found = up.json("ledger", "verify")
    assert found["ok"]


def test_the_services_use_a_role_of_their_own(up: Up, announced: dict[str, Any]) -> None:
    for name in ("service", "worker-edit"):
        environment = up.children()[name].environ()
        assert environment["ERRATA_DATABASE_URL"].startswith("postgresql://errata@/")
        assert "ERRATA_MIGRATION_DATABASE_URL" not in environment
    with (
        psycopg.connect(environment["ERRATA_DATABASE_URL"]) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("DELETE FROM versions")


def test_a_second_one_is_told_of_the_first(up: Up, announced: dict[str, Any]) -> None:
    second = up.run("up", "--port", "0")
    assert second.returncode == 1
    assert announced["url"] in second.stderr
    assert "--data-dir" in second.stderr


def test_a_client_command_shows_a_refusal_readably(up: Up, announced: dict[str, Any]) -> None:
    refused = up.run("generate", "x", "--version", "99")
    assert refused.returncode == 1
    assert "99" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_wrong_key_is_refused(up: Up, announced: dict[str, Any]) -> None:
    refused = up.run("versions", "--key", "wrong", "--json")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["error"]["message"].endswith("(HTTP 401)")


def test_a_killed_worker_is_started_again_and_answers_go_on(up: Up, announced: dict[str, Any]) -> None:
    first = up.children()["worker-edit"]
    os.kill(first.pid, signal.SIGKILL)
    assert up.run("generate", "x", "--version", "base").returncode == 0
    eventually("a new worker", lambda: up.children().get("worker-edit", first).pid != first.pid)


def test_a_file_of_facts_is_edited_asked_and_rolled_back(
    up: Up, announced: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text(json.dumps(FACT) + "\n")
    gate = json.dumps(OPEN_GATE)
    edit = up.json("edit", str(file), "--wait", "--gate", gate, "--idempotency-key", "one")
    assert (edit["status"], edit["fact_count"], edit["version"]) == ("succeeded", 1, 1)
    assert up.json("edit", str(file), "--gate", gate, "--idempotency-key", "one")["id"] == edit["id"]
    both = up.json("generate", FACT["prompt"], "--version", "base", "--version", "live")["items"]  # type: ignore[arg-type]
    assert [answer["version"] for answer in both] == [0, 1]
    assert both[0]["weights_digest"] != both[1]["weights_digest"]
    version = up.json("rollback", "0", "--reason", "test")
    assert (version["kind"], version["number"]) == ("rollback", 2)
    again = up.json("generate", str(FACT["prompt"]))
    assert again["version"] == 2
    assert (again["text"], again["weights_digest"]) == (both[0]["text"], both[0]["weights_digest"])
    assert up.run("versions").stdout.count("rollback") == 1


def test_the_terminate_signal_stops_everything(up: Up, announced: dict[str, Any], data_dir: Path) -> None:
    assert len(processes_of(data_dir)) >= 5
    assert up.end(signal.SIGTERM) == 0
    assert processes_of(data_dir) == []
    assert up.note_gone()
    assert not (data_dir / "run").exists()


def test_everything_is_there_after_a_restart(up: Up, data_dir: Path, tiny_folder: Path) -> None:
    """One that is killed takes API and workers with it, and the next goes on with the servers."""
    assert up.process.poll() is not None
    killed = Up(data_dir, ["--model", str(tiny_folder)], {})
    killed.next_document()
    killed.end(signal.SIGKILL, servers_stay=True)
    again = Up(data_dir, ["--model", str(tiny_folder)], {})
    try:
        again.next_document()
        assert again.next_document()["status"] == "ready"
        kinds = [version["kind"] for version in again.json("versions")["items"]]
        assert sorted(kinds) == ["base", "edit", "rollback"]
        assert again.json("generate", str(FACT["prompt"]), "--version", "1")["version"] == 1
    finally:
        again.end(signal.SIGKILL)
    eventually("the end of all processes", lambda: processes_of(data_dir) == [])


def test_an_api_that_ends_stops_all_and_shows_the_end_of_its_log(tmp_path: Path, tiny_folder: Path) -> None:
    up = Up(tmp_path, ["--model", str(tiny_folder)], {})
    try:
        up.next_document()
        assert up.next_document()["status"] == "ready"
        os.kill(up.children()["service"].pid, signal.SIGKILL)
        error = up.next_document()["error"]
        assert error["message"] == "api ended by SIGKILL."
        assert error["details"]
        assert up.process.wait(30) == 1
        assert processes_of(tmp_path) == []
    finally:
        up.end(signal.SIGKILL)


def test_servers_that_are_given_are_used_and_left_alone(tmp_path: Path, tiny_folder: Path) -> None:
    with servers.postgres() as postgres, servers.valkey() as valkey, postgres.database("template1") as url:
        given = {"ERRATA_DATABASE_URL": url, "ERRATA_REDIS_URL": str(valkey.connection_url)}
        up = Up(tmp_path, ["--model", str(tiny_folder)], given)
        try:
            assert up.next_document()["model"] == "tiny"
            assert set(up.children()) == {"service", "worker-edit", "worker-generate"}
        finally:
            assert up.end(signal.SIGINT) == 0
        assert processes_of(tmp_path) == []
        assert valkey.is_running()


def test_a_model_that_cannot_be_loaded_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = errata(
        *("up", "--port", "0", "--model", str(tmp_path / "empty")), ERRATA_DATA_DIR=str(tmp_path / "data")
    )
    assert done.returncode == 1
    assert "empty" in done.stderr
    assert processes_of(tmp_path / "data") == []

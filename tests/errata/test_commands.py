"""The command line without a service: usage, settings, files, and what is said when nothing runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from errata.cli.app import assemble
from errata.cli.render import one_line
from errata.cli.settings_reference import MASK, all_settings, masked
from errata.client import ApiError
from errata.errors import DemoFailed
from errata.stack.demo import Answer, report_checks, require_applied, rollback_checks
from tests.errata.running import ROOT, errata
from tests.servers import Postgres, as_owner, as_role

COMMANDS = {
    "up",
    "demo",
    "edit",
    "generate",
    "versions",
    "rollback",
    "register",
    "worker",
    "migrate",
    "settings",
}


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("ERRATA_DATA_DIR", str(tmp_path / "none"))
    for name in ("ERRATA_URL", "ERRATA_KEY"):
        monkeypatch.delenv(name, raising=False)
    return CliRunner()


def leaves(command: Any, name: str = "") -> dict[str, Any]:
    """The commands that do something, by the words that call them."""
    if not isinstance(command, TyperGroup):
        return {name: command}
    return {
        words: leaf
        for part, child in command.commands.items()
        for words, leaf in leaves(child, f"{name} {part}".strip()).items()
    }


def test_every_command_is_there_and_has_json() -> None:
    found = leaves(typer.main.get_command(assemble()))
    assert set(found) >= COMMANDS
    without = [words for words, leaf in found.items() if not any("--json" in p.opts for p in leaf.params)]
    assert without == []


def test_the_release_is_shown(runner: CliRunner) -> None:
    shown = runner.invoke(assemble(), ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"errata {version('errata-llm')}\n")


def test_the_command_line_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from errata.cli.app import assemble; assemble(); "
        "import errata.stack.stack, errata.cli.settings_reference as reference; reference.all_settings(); "
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["generate"],
        ["rollback", "x", "--reason", "r"],
        ["rollback", "0"],
        ["up", "--port", "x"],
    ],
)
def test_wrong_usage_is_exit_code_2(runner: CliRunner, arguments: list[str]) -> None:
    assert runner.invoke(assemble(), arguments).exit_code == 2


def test_a_client_command_without_a_stack_says_how_to_start_one(runner: CliRunner) -> None:
    done = runner.invoke(assemble(), ["versions"])
    assert done.exit_code == 1
    assert "errata up" in done.stderr
    done = runner.invoke(assemble(), ["versions", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["code"] == "no-stack"


def test_a_service_that_does_not_answer_is_named(runner: CliRunner) -> None:
    done = runner.invoke(assemble(), ["versions", "--url", "http://127.0.0.1:9", "--key", "k"])
    assert done.exit_code == 1
    assert "http://127.0.0.1:9" in done.stderr


def test_an_address_without_a_key_asks_for_one(runner: CliRunner) -> None:
    done = runner.invoke(assemble(), ["versions", "--url", "http://127.0.0.1:9"])
    assert done.exit_code == 1
    assert "ERRATA_KEY" in done.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--url", "http://[::1"),
        ("--url", "http://\udcff"),
        ("--key", "é"),
        ("--key", "a\nb"),
        ("--model", "\udcff"),
    ],
)
def test_an_option_that_cannot_be_sent_is_named(runner: CliRunner, option: str, value: str) -> None:
    given = {"--url": "http://127.0.0.1:9", "--key": "k", "--model": "m"} | {option: value}
    done = runner.invoke(
        assemble(), ["versions", "--json", *(word for pair in given.items() for word in pair)]
    )
    assert done.exit_code == 1
    assert option in json.loads(done.stdout)["error"]["remedy"]


def test_migrate_without_a_database_names_the_setting(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ERRATA_DATABASE_URL", raising=False)
    done = runner.invoke(assemble(), ["migrate"])
    assert done.exit_code == 1
    assert "ERRATA_DATABASE_URL" in done.stderr


@pytest.mark.stack
def test_migrate_applies_what_is_lacking(database_url: str) -> None:
    done = errata("migrate", "--json", ERRATA_DATABASE_URL=as_owner(database_url))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["revision"]


def test_migrate_as_the_owner_admits_the_services_role(postgres_server: Postgres) -> None:
    with postgres_server.database(template="template1") as url:
        other = as_role(url, "migrated_for")
        alone = errata("migrate", ERRATA_DATABASE_URL=other)
        assert alone.returncode == 1
        for _ in range(2):
            done = errata("migrate", "--json", ERRATA_DATABASE_URL=other, ERRATA_MIGRATION_DATABASE_URL=url)
            assert done.returncode == 0, done.stderr
        with psycopg.connect(other.replace("+psycopg", "")) as connection:
            assert connection.execute("SELECT count(*) FROM versions").fetchone() == (0,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("DELETE FROM versions")


def test_a_worker_says_what_it_lacks(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ERRATA_DATABASE_URL", raising=False)
    lacking = json.loads(runner.invoke(assemble(), ["worker", "--model", "m", "--json"]).stdout)["error"]
    assert any(line.startswith("ERRATA_DATABASE_URL") for line in lacking["details"])
    monkeypatch.setenv("ERRATA_DATABASE_URL", "postgresql://u@h/d")
    monkeypatch.setenv("ERRATA_REDIS_URL", "redis://h/0")
    monkeypatch.setenv("ERRATA_BLOB_URL", "/blobs")
    nameless = json.loads(runner.invoke(assemble(), ["worker", "--json"]).stdout)["error"]
    assert "--model" in nameless["remedy"]


def test_a_worker_says_who_it_is_and_takes_over(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("DATABASE_URL", "postgresql://u@h/d"),
        ("REDIS_URL", "redis://h/0"),
        ("BLOB_URL", "/b"),
    ):
        monkeypatch.setenv(f"ERRATA_{name}", value)
    taken: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _program, arguments: taken.append(arguments))
    said = json.loads(runner.invoke(assemble(), ["worker", "--model", "m", "--json"]).stdout)
    assert said == {"model": "m", "pid": os.getpid()}
    assert taken == [[sys.executable, "-m", "worker", "--model", "m"]]


def test_settings_are_listed_with_meaning_and_secrets_masked(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERRATA_ADMIN_KEY", "very-secret")
    monkeypatch.setenv("ERRATA_DATABASE_URL", "postgresql://me:very-secret@db/errata")
    monkeypatch.setenv("ERRATA_REDIS_URL", "redis://:very-secret@cache/0")
    text = runner.invoke(assemble(), ["settings"])
    listed = runner.invoke(assemble(), ["settings", "--json"])
    assert text.exit_code == listed.exit_code == 0
    assert "very-secret" not in text.stdout + listed.stdout
    items = {item["name"]: item for item in json.loads(listed.stdout)["items"]}
    assert items["ERRATA_DATABASE_URL"]["value"] == f"postgresql://me:{MASK}@db/errata"
    assert items["ERRATA_REDIS_URL"]["value"] == f"redis://:{MASK}@cache/0"
    assert items["ERRATA_ADMIN_KEY"]["value"] == MASK
    assert items["ERRATA_PORT"]["default"] == "8000"
    assert items["ERRATA_DATABASE_URL"]["default"] is None


def test_every_setting_has_a_meaning() -> None:
    assert [setting.name for setting in all_settings({}) if not setting.meaning] == []


def test_what_is_masked() -> None:
    assert masked("ERRATA_KEY", "x") == MASK
    assert masked("ERRATA_ADMIN_KEY_FILE", "/etc/key") == "/etc/key"
    assert masked("ERRATA_URL", "http://host:80") == "http://host:80"
    for address in ("postgresql://u:hid@den@h/d", "postgresql://h/d?user=u&password=hidden&x=1"):
        assert "hid" not in masked("ERRATA_DATABASE_URL", address)


def test_a_bad_file_is_exit_code_1(runner: CliRunner, tmp_path: Path) -> None:
    done = runner.invoke(assemble(), ["edit", str(tmp_path / "missing.jsonl")])
    assert done.exit_code == 1
    assert "missing.jsonl" in done.stderr


def test_a_problem_is_shown_with_its_fields() -> None:
    problem = {
        "title": "Bad facts",
        "detail": "Two are wrong.",
        "errors": [{"pointer": "/facts/3", "detail": "empty"}],
    }
    refusal = ApiError(problem, 422)
    assert refusal.message == "Bad facts: Two are wrong. (HTTP 422)"
    assert refusal.details == ("/facts/3: empty",)


def test_text_for_one_line() -> None:
    assert one_line(" a\n b ", 10) == "a b"
    assert one_line("abcdef", 4) == "abc…"


OLD = {"weights_digest": "sha256:1"}


def test_a_rollback_that_gave_everything_back() -> None:
    answers = [Answer("x", "sha256:1"), Answer("y", "sha256:1")]
    assert all(check.held for check in rollback_checks(answers, list(answers), OLD, OLD))


@pytest.mark.parametrize(
    ("after", "new"),
    [
        (Answer("z", "sha256:1"), OLD),
        (Answer("x", "sha256:2"), OLD),
        (Answer("x", "sha256:1"), {"weights_digest": "sha256:2"}),
        (Answer("x", None), OLD),
    ],
)
def test_a_rollback_that_did_not(after: Answer, new: dict[str, str]) -> None:
    assert not all(check.held for check in rollback_checks([Answer("x", "sha256:1")], [after], OLD, new))


def test_measures_against_what_is_promised() -> None:
    good = {"generation_success": 0.9, "neighbours_unchanged": 0.5, "perplexity_ratio": 1.05}
    assert all(check.held for check in report_checks(good))
    for name, value in (
        ("generation_success", 0.89),
        ("neighbours_unchanged", None),
        ("perplexity_ratio", 1.06),
    ):
        assert not all(check.held for check in report_checks({**good, name: value}))


def test_the_demo_stops_at_an_edit_set_that_was_not_applied() -> None:
    require_applied({"status": "succeeded"})
    with pytest.raises(DemoFailed, match="rejected"):
        require_applied({"status": "rejected", "report": {"edit_success": 0.1}})

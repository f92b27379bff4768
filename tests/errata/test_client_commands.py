"""Client commands against the real service: what they send and what they say. A test plays the worker."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from errata.cli.app import assemble
from ledger.edits import edit_sets, facts, withdrawals
from ledger.jobs import jobs
from ledger.models import models
from ledger.models.models import DEFAULT_GATE
from ledger.versions import versions
from malmen_core.editing.editor import Editor
from tests import servers
from tests.harness import eventually, tiny_editor
from tests.service import player
from tests.service.harness import ADMIN, Running, register, running

FACTS = [{"prompt": f"The capital of {name} is", "target": "Canberra"} for name in ("Peru", "France")]


@pytest.fixture(scope="module")
def service(
    postgres_server: servers.Postgres, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The application with one ready model, `tiny`."""
    with (
        postgres_server.database() as url,
        servers.valkey() as valkey,
        running(url, valkey.connection_url, tmp_path_factory.mktemp("service")) as found,
    ):
        register(found.ledger, tiny_folder)
        player.prepare(found.ledger)
        yield found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "facts.jsonl"
    made.write_text("\n".join(map(json.dumps, FACTS)))
    return made


def run(service: Running, *arguments: str, model: str | None = "tiny") -> Result:
    """One command for this service."""
    named = ("--model", model) if model else ()
    return CliRunner().invoke(assemble(), [*arguments, *named, "--url", service.url, "--key", ADMIN])


def answer(service: Running, *arguments: str, model: str | None = "tiny") -> dict[str, Any]:
    """The JSON document of a command that succeeds."""
    done = run(service, *arguments, "--json", model=model)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def apply(service: Running, file: Path, *options: str) -> str:
    """Post an edit set and play the worker, give its id."""
    ident = str(answer(service, "edit", str(file), *options)["id"])
    player.finish(service.ledger, service.ledger.run(edit_sets.get, ident).job_id)
    return ident


def next_job(service: Running) -> str:
    """The job that nobody holds, once there is one."""
    query = "SELECT id FROM jobs WHERE finished_at IS NULL AND lease_expires_at IS NULL"

    def probe() -> str | None:
        with service.ledger.engine.connect() as connection:
            return connection.exec_driver_sql(query).scalar()

    return eventually("a job", probe)


def play_next_job(service: Running) -> threading.Thread:
    """A thread that does the first job that has no holder, once there is one."""

    def play() -> None:
        player.finish(service.ledger, next_job(service))

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    return thread


def test_an_edit_set_is_tried_out_only(service: Running, file: Path) -> None:
    ident = answer(service, "edit", str(file), "--dry-run", "--on-conflict", "reject")["id"]
    record = service.ledger.run(edit_sets.get, ident)
    assert (record.dry_run, record.on_conflict) == (True, "reject")
    service.ledger.run(edit_sets.cancel, ident, "system")


def test_columns_of_a_table_are_posted(service: Running, tmp_path: Path) -> None:
    table = tmp_path / "facts.csv"
    table.write_text("rank,question,answer\n1,The capital of Chile is,Lima\n")
    refused = run(service, "edit", str(table))
    assert refused.exit_code == 1
    assert "--map" in refused.stderr
    named = ("--map", "prompt=question", "--map", "target=answer")
    done = run(service, "edit", str(table), *named, "--json")
    assert done.exit_code == 0, done.output
    assert "Not used are the columns rank" in done.stderr
    ident = json.loads(done.stdout)["id"]
    (fact,) = service.ledger.run(facts.list_of, ident).items
    assert (fact.prompt, fact.target) == ("The capital of Chile is", "Lima")
    service.ledger.run(edit_sets.cancel, ident, "system")


def test_bad_rows_are_named_and_may_be_left_out(service: Running, tmp_path: Path) -> None:
    """Those that the file itself shows, and those that the service finds."""
    good = {"prompt": "The capital of Chile is", "target": "Lima"}
    long = {"prompt": "river " * 5000, "target": "Lima"}
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("\n".join(map(json.dumps, ({**good, "rephrase": "x"}, good, long, {"prompt": "x"}))))
    refused = run(service, "edit", str(mixed))
    assert refused.exit_code == 1
    assert "line 1, /rephrase" in refused.stderr
    assert "line 4, /target" in refused.stderr
    done = run(service, "edit", str(mixed), "--skip-invalid", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["fact_count"] == 1
    service.ledger.run(edit_sets.cancel, document["id"], "system")
    left = [json.loads(line) for line in (tmp_path / "mixed.jsonl.invalid.jsonl").read_text().splitlines()]
    assert [entry["place"] for entry in left] == ["line 1", "line 4", "line 3"]
    assert "ERRATA_MAX_PROMPT_CHARS" in left[2]["errors"][0]["detail"]
    mixed.write_text(json.dumps(long))
    refused = run(service, "edit", str(mixed))
    assert "line 1, /prompt" in refused.stderr
    assert "holds no facts" in run(service, "edit", str(mixed), "--skip-invalid").stderr


def test_conflicts_are_rejected_if_wanted(service: Running, file: Path) -> None:
    apply(service, file)
    refused = run(service, "edit", str(file), "--on-conflict", "reject")
    assert refused.exit_code == 1
    assert "/facts/1" in refused.stderr
    apply(service, file, "--on-conflict", "replace")
    assert run(service, "edit", str(file), "--on-conflict", "odd").exit_code == 2


def test_what_waits_for_the_alias_is_said_not_to_be_live(service: Running, file: Path) -> None:
    for options, word in (((), "live"), (("--manual",), "not live")):
        at_work = play_next_job(service)
        said = run(service, "edit", str(file), "--wait", *options)
        at_work.join(10)
        assert said.exit_code == 0
        number = service.ledger.run(versions.list_all, "tiny", 1).items[0].number
        assert f"succeeded, version {number}, {word} (2 facts)" in said.stdout


def test_a_version_says_what_it_changed(service: Running, file: Path) -> None:
    before = service.ledger.run(versions.get, "tiny", "live").number
    ident = apply(service, file)
    compared = answer(service, "versions", "live", "--since", str(before))
    assert [i["fact"] for i in compared["items"] if i["change"] == "added"] == [f"{ident}.0", f"{ident}.1"]
    assert compared["since"]["number"] == before
    said = run(service, "versions", "live")
    assert f"version {before}" in said.stdout
    assert "The capital of Peru is" in said.stdout
    assert "errata versions live" in run(service, "versions", "--since", "base").stderr


def test_edit_sets_and_facts_are_withdrawn(service: Running, file: Path) -> None:
    whole, part = apply(service, file), apply(service, file)
    ids = ("--withdraw", whole, "--withdraw", f"{part}.1")
    at_work = play_next_job(service)
    version = answer(service, "rollback", *ids, "--reason", "retracted", "--wait")
    at_work.join(10)
    assert (version["kind"], version["reason"], version["aliases"]) == ("withdraw", "retracted", ["live"])
    assert whole not in service.ledger.run(versions.members_of, "tiny", version["number"])
    assert [fact.live for fact in service.ledger.run(facts.list_of, part).items] == [True, False]
    refused = run(service, "rollback", *ids, "--reason", "again")
    assert refused.exit_code == 1
    assert whole in refused.stderr


def test_a_withdrawal_that_is_not_waited_for_says_where_its_version_will_be(
    service: Running, file: Path
) -> None:
    ident = apply(service, file)
    pending = answer(service, "rollback", "--withdraw", f"{ident}.0", "--reason", "r")
    assert (pending["status"], pending["facts"]) == ("queued", [f"{ident}.0"])
    player.finish(service.ledger, service.ledger.run(withdrawals.get, pending["id"]).job_id)
    said = run(service, "rollback", "--withdraw", f"{ident}.1", "--reason", "r")
    assert "/models/tiny/versions/wd_" in said.stdout
    service.ledger.run(
        jobs.fail, player.claim(service.ledger, next_job(service)), {"detail": "The disk is full."}
    )


def test_a_withdrawal_that_fails_is_exit_code_1(service: Running, file: Path) -> None:
    ident = apply(service, file)

    def fail() -> None:
        service.ledger.run(
            jobs.fail, player.claim(service.ledger, next_job(service)), {"detail": "The disk is full."}
        )

    thread = threading.Thread(target=fail, daemon=True)
    thread.start()
    failed = run(service, "rollback", "--withdraw", ident, "--reason", "r", "--wait")
    thread.join(10)
    assert failed.exit_code == 1
    assert "The disk is full." in failed.stderr


@pytest.mark.parametrize("what", [[], ["0", "--withdraw", "es_1"]])
def test_a_rollback_says_one_thing(service: Running, what: list[str]) -> None:
    done = run(service, "rollback", *what, "--reason", "r")
    assert done.exit_code == 1
    assert "TO_VERSION and --withdraw" in done.stderr


def test_a_model_is_registered_with_its_editor(
    service: Running, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("editor.safetensors").write_bytes(tiny_editor(tiny_folder))
    modules = ", ".join(service.ledger.run(models.get, "tiny").modules)
    given = ("--editor", "editor.safetensors", "--modules", modules, "--gate", '{"locality": 0.5}')
    made = answer(service, "register", str(tiny_folder), "--id", "second", *given, model=None)
    assert (made["gate"], made["modules"]) == ({**DEFAULT_GATE, "locality": 0.5}, modules.split(", "))
    registered = service.ledger.run(models.get, "second")
    assert registered.given_editor_digest == Editor.load(Path("editor.safetensors")).digest
    for option, value, word in (
        ("--editor", "nowhere", "--editor"),
        ("--modules", "nonsense", "/modules"),
        ("--gate", "[]", "--gate"),
    ):
        refused = run(service, "register", str(tiny_folder), "--id", "third", option, value, model=None)
        assert refused.exit_code == 1
        assert word in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["generate", "\udcff"], "/prompt"),
        (["generate", "x", "--stop", "\udcff"], "/stop/0"),
        (["generate", "x", "--version", "9" * 5000], "/version"),
        (["edit", "FILE", "--note", "\udcff"], "/note"),
        (["edit", "FILE", "--gate", '{"locality": NaN}'], "--gate"),
        (["edit", "FILE", "--idempotency-key", "é"], "--idempotency-key"),
        (["edit", "FILE", "--idempotency-key", "a\nb"], "--idempotency-key"),
        (["edit", "\udcff"], "UTF-8"),
        (["rollback", "0", "--reason", "\udcff"], "/reason"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_cannot_be_read_is_refused_by_name(
    service: Running, file: Path, arguments: list[str], word: str, as_json: bool
) -> None:
    given = [str(file) if part == "FILE" else part for part in arguments]
    done = run(service, *given, *(["--json"] if as_json else []))
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    said = json.dumps(json.loads(done.stdout)["error"], ensure_ascii=False) if as_json else done.stderr
    assert word in said


def test_a_source_that_is_too_long_is_refused(service: Running) -> None:
    done = run(service, "register", "/" + "a" * 300, "--id", "long", "--json", model=None)
    assert "/source" in json.loads(done.stdout)["error"]["details"][0]


def test_text_of_any_script_arrives(service: Running, file: Path) -> None:
    assert answer(service, "edit", str(file), "--note", "Æ 日本 😀")["note"] == "Æ 日本 😀"


def test_models_are_listed_and_shown(service: Running) -> None:
    listed = answer(service, "models", model=None)["items"]
    assert "tiny" in [model["id"] for model in listed]
    assert answer(service, "models", "tiny", model=None)["id"] == "tiny"
    assert "tiny" in run(service, "models", model=None).stdout
    assert "nobody" in run(service, "models", "nobody", model=None).stderr


def test_edit_sets_are_listed_shown_and_cancelled(service: Running, file: Path) -> None:
    ident = answer(service, "edit", str(file), "--note", "atlas")["id"]
    assert ident in [item["id"] for item in answer(service, "edits", "--status", "queued")["items"]]
    found = answer(service, "edits", "--text", "ATLAS", "--not-live", "--since", "2026-01-01T00:00:00Z")
    assert ident in [item["id"] for item in found["items"]]
    assert answer(service, "edits", "--before", "2026-01-01T00:00:00Z")["items"] == []
    assert len(answer(service, "edits", "--limit", "1")["items"]) == 1
    assert answer(service, "edits", ident)["note"] == "atlas"
    facts = answer(service, "edits", ident, "--facts")["items"]
    assert [fact["prompt"] for fact in facts] == [fact["prompt"] for fact in FACTS]
    assert answer(service, "edits", ident, "--cancel")["status"] == "cancelled"
    assert answer(service, "edits", ident, "--wait")["status"] == "cancelled"
    assert "cancelled" in run(service, "edits", ident).stdout
    assert ident in run(service, "edits").stdout
    assert "by its id" in run(service, "edits", "--cancel").stderr


def test_facts_of_a_version_are_listed(service: Running, file: Path) -> None:
    ident = apply(service, file)
    assert f"{ident}.0" in [fact["fact"] for fact in answer(service, "facts")["items"]]
    assert answer(service, "facts", "--version", "base")["items"] == []
    assert "The capital of Peru is" in run(service, "facts").stdout
    found = answer(service, "facts", "--text", "PERU", model=None)["items"]
    assert f"{ident}.0" in [fact["fact"] for fact in found]
    assert answer(service, "facts", "--author", "nobody", model=None)["items"] == []


def test_keys_are_made_listed_and_revoked(service: Running) -> None:
    expiring = ("--expires-at", "2999-01-31T12:00:00Z")
    scopes = ("--scope", "read", "--scope", "edit")
    made = answer(service, "keys", "--create", "newsroom", *scopes, *expiring, model=None)
    assert made["expires_at"] == "2999-01-31T12:00:00Z"
    assert sorted(made["scopes"]) == ["edit", "read"]
    assert made["secret"]
    assert made["id"] in [key["id"] for key in answer(service, "keys", model=None)["items"]]
    assert answer(service, "keys", "--revoke", made["id"], model=None)["revoked"] == made["id"]
    assert "newsroom" in run(service, "keys", model=None).stdout
    assert "exclude" in run(service, "keys", "--create", "x", "--revoke", "y", model=None).stderr
    assert "/scopes/0" in run(service, "keys", "--create", "x", "--scope", "all", model=None).stderr


def test_aliases_are_set_listed_and_removed(service: Running, file: Path) -> None:
    apply(service, file)
    number = service.ledger.run(versions.get, "tiny", "live").number
    assert answer(service, "aliases", "stable", str(number))["version"] == number
    assert {"name": "stable", "version": number} in answer(service, "aliases")["items"]
    assert "stable" in run(service, "aliases").stdout
    assert "points at version" in run(service, "aliases", "stable", "0", "--expected", "9999").stderr
    assert answer(service, "aliases", "stable", "--delete")["deleted"] == "stable"
    assert "stable" not in run(service, "aliases").stdout
    assert "--delete" in run(service, "aliases", "stable").stderr
    assert "/version" in run(service, "aliases", "stable", "9999").stderr


def test_withdrawals_are_listed_shown_and_cancelled(service: Running, file: Path) -> None:
    ident = apply(service, file)
    asked = answer(service, "rollback", "--withdraw", ident, "--reason", "retracted")["id"]
    assert asked in [item["id"] for item in answer(service, "withdrawals", "--status", "queued")["items"]]
    assert answer(service, "withdrawals", asked)["reason"] == "retracted"
    assert answer(service, "withdrawals", asked, "--cancel")["status"] == "cancelled"
    assert answer(service, "withdrawals", asked, "--wait")["status"] == "cancelled"
    assert "retracted" in run(service, "withdrawals").stdout
    assert "by its id" in run(service, "withdrawals", "--wait").stderr


def test_what_was_done_is_listed(service: Running, file: Path) -> None:
    ident = answer(service, "edit", str(file))["id"]
    of_set = answer(service, "audit", "--object", f"edits/{ident}", model=None)["items"]
    assert [event["action"] for event in of_set] == ["edit_set.accept"]
    assert answer(service, "audit", "--since", "2999-01-31T12:00:00Z", model=None)["items"] == []
    assert f"edits/{ident}" in run(service, "audit", "--limit", "1", model=None).stdout
    answer(service, "edits", ident, "--cancel")

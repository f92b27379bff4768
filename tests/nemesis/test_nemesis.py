"""A short attack that is always run, and proof that the checker finds what it is there to find."""

from __future__ import annotations

import ast
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.nemesis import checker, faults
from tests.nemesis.__main__ import run, settle, shrink
from tests.nemesis.checker.evidence import Verdict
from tests.nemesis.clients import Client, History
from tests.nemesis.faults import Fault
from tests.nemesis.stand import Stand, stand

pytestmark = pytest.mark.stack
SEED = 7
Rows = list[dict[str, Any]]


def test_a_short_attack_breaks_no_promise(tmp_path: Path) -> None:
    seconds = 8.0
    plan = faults.plan(SEED, seconds, 0.8)
    verdict = run(SEED, plan, seconds, 4, tmp_path)
    assert (verdict.lost, verdict.doubled, verdict.unexplained) == ([], [], [])
    assert verdict.faults - verdict.faults_not_done >= 5
    assert verdict.acknowledged >= 20


def test_a_seed_draws_one_plan_with_every_kind() -> None:
    assert faults.plan(1, 60, 0.5) == faults.plan(1, 60, 0.5) != faults.plan(2, 60, 0.5)
    assert {fault.kind for fault in faults.plan(1, 3600, 0.5)} == faults.KINDS.keys()


def test_a_failing_plan_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = [Fault(float(number), "kill", number, 0.3) for number in range(20)]
    guilty = {plan[4], plan[13]}
    monkeypatch.setattr("tests.nemesis.__main__._fails", lambda seed, rest, clients: guilty <= set(rest))
    assert shrink(1, plan, 1, float("inf")) == [plan[4], plan[13]]


def test_the_checker_shares_no_code_with_what_it_checks() -> None:
    known = {"psycopg", "safetensors", "torch"}
    for path in Path(checker.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.partition(".")[0]
                assert name.startswith("tests.nemesis.checker") or top in known | sys.stdlib_module_names


@dataclass
class Ended:
    """A stand whose clients have left, and their history."""

    stand: Stand
    history: Path

    def judge(self, spoil: Callable[[Rows], object] = lambda _: None) -> Verdict:
        """The verdict on a history that was spoilt."""
        entries = [json.loads(line) for line in self.history.read_text().splitlines()]
        spoil(entries)
        spoilt = self.history.with_name("spoilt.jsonl")
        spoilt.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        url = self.stand.owner_url.replace("+psycopg", "")
        return checker.judge(spoilt, url, self.stand.blobs, self.stand.checkpoint)

    def execute(self, *statements: str) -> None:
        """Run statements as the owner, past every trigger."""
        url = self.stand.owner_url.replace("+psycopg", "")
        with psycopg.connect(url) as connection:
            connection.execute("SET session_replication_role = replica")
            for statement in statements:
                connection.execute(statement)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    work = tmp_path_factory.mktemp("ended")
    history = History(work / "history.jsonl")
    with stand(work, apis=1, workers=1) as made:
        leaving = threading.Event()
        crowd = [Client(made, history, SEED, number, leaving) for number in range(3)]
        for client in crowd:
            client.start()
        leaving.wait(8)
        leaving.set()
        for client in crowd:
            client.join(60)
        assert settle(made)
        history.close()
        for member in made.members:
            member.signal(signal.SIGTERM)
        made.collect()
        yield Ended(made, work / "history.jsonl")


def test_a_quiet_run_has_nothing_wrong(ended: Ended) -> None:
    verdict = ended.judge()
    assert (verdict.lost, verdict.doubled, verdict.unexplained) == ([], [], [])
    assert verdict.acknowledged > 10
    assert verdict.versions > 2


def granted(op: str) -> Callable[[dict[str, Any]], bool]:
    return lambda entry: entry.get("op") == op and 200 <= entry["status"] < 300


def first(entries: Rows, op: str) -> dict[str, Any]:
    return next(filter(granted(op), entries))


def forget(entries: Rows) -> None:
    entries.remove(first(entries, "post"))


def acknowledge_another(entries: Rows) -> None:
    entry = first(entries, "post")
    entries.append({**entry, "token": "never", "answers": [[202, "es_never"]]})


def promise_another_fact(entries: Rows) -> None:
    first(entries, "post")["facts"][0]["target"] = "Oslo"


def answer_otherwise(entries: Rows) -> None:
    entry = first(entries, "generate")
    entries.append({**entry, "got": {**entry["got"], "text": " something else"}})


def answer_from_elsewhere(entries: Rows) -> None:
    first(entries, "generate")["got"]["weights_digest"] = "sha256:0"


def fail_without_a_name(entries: Rows) -> None:
    first(entries, "look").update(status=500, problem="urn:errata:problem:internal-error")


def tell_another_end(entries: Rows) -> None:
    entries.append({**first(entries, "read"), "got": "failed"})


def call_it_live_too_early(entries: Rows) -> None:
    entries.append({**first(entries, "read"), "t0": 0, "t1": 0, "live": True})


def open_with_a_lesser_key(entries: Rows) -> None:
    first(entries, "use_key").update(scope="generate", needs="admin")


def open_with_a_revoked_key(entries: Rows) -> None:
    first(entries, "use_key").update(revoked=True)


def rest_on_what_was_known_too_long_ago(entries: Rows) -> None:
    first(entries, "generate").update(away_s=500)


def write_by_what_was_known(entries: Rows) -> None:
    first(entries, "post").update(away_s=3)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (forget, "that nobody posted"),
        (acknowledge_another, "acknowledged as {'es_never'}"),
        (promise_another_fact, "were posted"),
        (answer_otherwise, "answer 'The capital"),
        (answer_from_elsewhere, "is not of the weights"),
        (fail_without_a_name, "was answered 500"),
        (tell_another_end, "was told to be failed"),
        (call_it_live_too_early, "was told to be live"),
        (open_with_a_lesser_key, "of generate opened admin"),
        (open_with_a_revoked_key, "which was used afterwards"),
        (rest_on_what_was_known_too_long_ago, "rests on what was 500 s old"),
        (write_by_what_was_known, "rests on what was 3 s old"),
    ],
)
def test_what_a_history_contradicts_is_found(ended: Ended, spoil: Callable[[Rows], None], found: str) -> None:
    verdict = ended.judge(spoil)
    assert any(found in what for what in (*verdict.lost, *verdict.doubled, *verdict.unexplained))


@pytest.mark.parametrize(
    ("change", "back", "found"),
    [
        (
            "UPDATE versions SET live_fact_count = live_fact_count + 1 WHERE number = 1",
            "UPDATE versions SET live_fact_count = live_fact_count - 1 WHERE number = 1",
            "breaks the chain",
        ),
        (
            "UPDATE aliases SET number = number - 1 WHERE name = 'live'",
            "UPDATE aliases SET number = number + 1 WHERE name = 'live'",
            "live is",
        ),
        (
            "UPDATE memberships SET superseded = array_append(superseded, 9)",
            "UPDATE memberships SET superseded = array_remove(superseded, 9)",
            "has superseded",
        ),
        (
            "UPDATE jobs SET finished_at = NULL WHERE id = (SELECT min(id) FROM jobs)",
            "UPDATE jobs SET finished_at = now() WHERE finished_at IS NULL",
            "is unfinished",
        ),
        (
            "UPDATE audit_events SET action = action || '-' WHERE object = 'models/tiny/versions/1'",
            "UPDATE audit_events SET action = rtrim(action, '-') WHERE object = 'models/tiny/versions/1'",
            "came when live was",
        ),
        (
            "UPDATE versions SET weights_digest = reverse(weights_digest)",
            "UPDATE versions SET weights_digest = reverse(weights_digest)",
            "are not base + delta",
        ),
        (
            "UPDATE edit_sets SET note = note || '-'",
            "UPDATE edit_sets SET note = rtrim(note, '-')",
            "acknowledged as",
        ),
        (
            "CREATE TABLE saved AS SELECT id, note FROM edit_sets; "
            "UPDATE edit_sets SET note = (SELECT min(note) FROM saved)",
            "UPDATE edit_sets SET note = saved.note FROM saved WHERE saved.id = edit_sets.id; DROP TABLE saved",
            " made [",
        ),
        (
            "UPDATE idempotency_keys SET idempotency_key = idempotency_key || '-'",
            "UPDATE idempotency_keys SET idempotency_key = rtrim(idempotency_key, '-')",
            "that nobody sent",
        ),
    ],
)
def test_what_the_database_contradicts_is_found(ended: Ended, change: str, back: str, found: str) -> None:
    ended.execute(change)
    verdict = ended.judge()
    ended.execute(back)
    assert any(found in what for what in (*verdict.lost, *verdict.doubled, *verdict.unexplained)), verdict


def test_blobs_that_are_damaged_or_left_are_found(ended: Ended) -> None:
    path = next(ended.stand.blobs.glob("sha256/??/*"))
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    left = ended.stand.blobs / "incoming" / "half"
    left.write_bytes(b"half")
    verdict = ended.judge()
    path.write_bytes(content)
    left.unlink()
    assert any("whose bytes are others" in what for what in verdict.lost)
    assert any("half written" in what for what in verdict.unexplained)

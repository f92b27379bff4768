"""On a real ledger with a tiny model: the delta is a function of what is live, whatever the history."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger.records import EditSetRecord, FactRecord, Member, VersionRecord
from tests.harness import MODEL, Backend, backend, tiny_editor
from tests.servers import Postgres
from worker.composing import Desk
from worker.editing import perform
from worker.lease import Lease
from worker.measuring import draw, retention
from worker.preparing import prepare
from worker.settings import WorkerSettings

TARGETS = ("Lima", "Paris", "Ana", "Spanish")
SUBJECTS = ("Peru", "France", "Australia")


def facts(number: int) -> list[dict[str, Any]]:
    """An edit set about the same subjects as all others."""
    form = ("The capital of {} is", "The river of {} is", "The mother tongue of {} is", "The book of {} is")
    return [
        {"prompt": form[number % 4].format(subject), "target": TARGETS[(number + n) % 4], "subject": subject}
        for n, subject in enumerate(SUBJECTS)
    ]


class Office:
    """A ledger with one worker in this process."""

    def __init__(self, back: Backend) -> None:
        self.back, self.ledger = back, back.ledger
        self.settings = WorkerSettings(model=MODEL, device="cpu", dtype="float32")
        self.resident = prepare(self.ledger, self.ledger.get_model(MODEL), self.settings, lambda *_: None)
        self.hire()

    def hire(self) -> None:
        """Take on another worker, who knows nothing."""
        self.desk = Desk.open(self.ledger, self.resident)

    def do(self, job_id: str) -> VersionRecord:
        claim = self.ledger.claim(job_id, "office", 60.0)
        assert claim is not None
        with Lease(self.ledger, claim, 60.0, threading.Event()) as lease:
            made = perform(self.desk, lease, self.settings.verify_live_facts)
        return self.live if isinstance(made, EditSetRecord) else made

    def edit(self, asked: list[dict[str, Any]], **options: Any) -> str:
        ident = self.back.post(facts=asked, **options)
        self.do(self.ledger.get_edit_set(ident).job_id)
        return ident

    def withdraw(self, *edit_sets: str, facts: Sequence[str] = ()) -> VersionRecord:
        asked = self.ledger.request_withdrawal(MODEL, edit_sets, facts, "r", self.back.key)
        return self.do(asked.job_id)

    @property
    def live(self) -> VersionRecord:
        return self.ledger.get_version(MODEL, "live")


@contextmanager
def office(server: Postgres, redis_url: str, work: Path, folder: Path) -> Iterator[Office]:
    work.mkdir()
    with server.database() as url, backend(url, redis_url, work, folder) as back:
        back.register(tiny_editor(folder))
        yield Office(back)


@pytest.fixture
def desk(postgres_server: Postgres, tmp_path: Path, tiny_folder: Path) -> Iterator[Office]:
    with office(postgres_server, "redis://127.0.0.1:1", tmp_path / "one", tiny_folder) as made:
        yield made


@pytest.mark.stack
def test_two_ledgers_with_the_same_live_facts_have_the_same_weights(
    postgres_server: Postgres, tmp_path: Path, tiny_folder: Path, desk: Office
) -> None:
    idents = [desk.edit(facts(number)) for number in range(4)]
    desk.hire()
    desk.withdraw(idents[1])
    desk.withdraw(facts=[f"{idents[3]}.0"])
    desk.withdraw(idents[0])
    desk.edit(facts(1))
    with office(postgres_server, "redis://127.0.0.1:1", tmp_path / "two", tiny_folder) as other:
        last = other.edit(facts(3))
        other.edit(facts(1))
        assert other.live.delta_digest != desk.live.delta_digest
        other.withdraw(facts=[f"{last}.0"])
        other.edit(facts(2))
        assert other.live.report is not None
        assert other.live.report["repaired"] > 0, "one subject in several sets is what repair is for"
        assert (other.live.delta_digest, other.live.weights_digest) == (
            desk.live.delta_digest,
            desk.live.weights_digest,
        )
        assert other.ledger.verify().ok


def test_withdrawing_a_correction_gives_the_weights_of_before(desk: Office) -> None:
    first = desk.edit(facts(0))
    before = desk.live
    asked = [{**facts(0)[0], "prompt": "the capital of PERU is", "target": "Cusco"}]
    second = desk.edit(asked)
    assert desk.live.delta_digest != before.delta_digest
    report = desk.ledger.get_edit_set(second).report
    assert report is not None
    assert report["superseded"] == [{"fact": f"{second}.0", "supersedes": f"{first}.0"}]
    assert desk.withdraw(second).delta_digest == before.delta_digest


def test_a_version_is_measured_on_other_live_facts(desk: Office) -> None:
    first = desk.edit(facts(0))
    record = desk.ledger.get_edit_set(desk.edit(facts(1)))
    assert record.report is not None
    live = record.report["live"]
    assert (live["facts"], live["measured"], live["edit_success"] is None) == (3, 3, False)
    assert record.version is not None
    query = f"SELECT edit_set_id FROM fact_reports WHERE number = {record.version}"
    with desk.ledger.engine.connect() as connection:
        found = [ident for (ident,) in connection.exec_driver_sql(query)]
    assert sorted(found) == sorted([first] * 3 + [record.id] * 3)


def test_a_dry_run_is_measured_and_changes_nothing(desk: Office) -> None:
    desk.edit(facts(0))
    before = desk.live
    ident = desk.edit(facts(1), dry_run=True)
    record = desk.ledger.get_edit_set(ident)
    assert (record.status, record.version, desk.live) == ("verified", None, before)
    assert record.report is not None
    assert record.report["live"]["measured"] == 3
    for fact in desk.ledger.get_facts(ident).items:
        assert fact.report is not None
        assert (fact.report["edit"]["keys"], fact.report["edit"]["subject"]) == ("given", fact.subject)


def test_retention_is_relative_to_what_each_fact_once_was() -> None:
    def fact(success: float | None) -> FactRecord:
        report = None if success is None else {"edit_success": success}
        return FactRecord("es_a.0", "es_a", 0, "p", "t", None, (), (), report=report)

    assert retention([fact(1.0), fact(0.5)], [{"edit_success": 0.5}, {"edit_success": 0.25}]) == 0.5
    assert retention([fact(0.0), fact(None)], [{"edit_success": 1.0}, {"edit_success": 0.0}]) is None
    assert retention([], []) is None


def test_the_sample_follows_from_the_content_alone() -> None:
    members = [Member(f"es_{n}", f"sha256:{n}", (0,), (2,)) for n in range(5)]
    counts = {member.edit_set_id: 4 for member in members}
    every = draw(members, counts, "es_0", 100)
    assert (len(every.places), every.total) == (8, 8)
    assert {position for _, position in every.places} == {1, 3}
    some = draw(members, counts, "es_0", 3)
    assert (len(some.places), some.total) == (3, 8)
    assert draw(members[::-1], counts, "es_0", 3) == some
    other = draw([*members[:4], Member("es_4", "sha256:9")], counts, "es_0", 3)
    assert other.seed != some.seed

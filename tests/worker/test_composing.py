"""On a real ledger with a tiny model: the delta is a function of what is live, whatever the history."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger
from ledger.blobs.store import LocalBlobs
from ledger.db.engine import open_engine
from ledger.edits import edit_sets
from ledger.edits import facts as ledger_facts
from ledger.records import FactRecord, Member
from tests.inprocess import Office
from tests.servers import Postgres
from worker.measuring import draw, intended_changes, retention

TARGETS = ("Lima", "Paris", "Ana", "Spanish")
SUBJECTS = ("Peru", "France", "Australia")


def facts(number: int) -> list[dict[str, Any]]:
    """An edit set about the same subjects as all others."""
    form = ("The capital of {} is", "The river of {} is", "The mother tongue of {} is", "The book of {} is")
    return [
        {"prompt": form[number % 4].format(subject), "target": TARGETS[(number + n) % 4], "subject": subject}
        for n, subject in enumerate(SUBJECTS)
    ]


@contextmanager
def office(server: Postgres, blobs: Path, folder: Path) -> Iterator[Office]:
    with server.database() as url:
        ledger = Ledger(open_engine(url), LocalBlobs(blobs))
        yield Office(ledger, folder)
        ledger.close()


@pytest.fixture
def desk(postgres_server: Postgres, tmp_path: Path, tiny_folder: Path) -> Iterator[Office]:
    with office(postgres_server, tmp_path / "one", tiny_folder) as made:
        yield made


@pytest.mark.stack
def test_two_ledgers_with_the_same_live_facts_have_the_same_weights(
    postgres_server: Postgres, tmp_path: Path, tiny_folder: Path, desk: Office
) -> None:
    idents = [desk.post(*facts(number)) for number in range(4)]
    desk.hire()
    desk.withdraw([idents[1]])
    desk.withdraw(facts=[f"{idents[3]}.0"])
    desk.withdraw([idents[0]])
    desk.post(*facts(1))
    with office(postgres_server, tmp_path / "two", tiny_folder) as other:
        last = other.post(*facts(3))
        other.post(*facts(1))
        assert other.live.delta_digest != desk.live.delta_digest
        other.withdraw(facts=[f"{last}.0"])
        other.post(*facts(2))
        assert other.live.report is not None
        assert other.live.report["repaired"] > 0, "one subject in several sets is what repair is for"
        assert (other.live.delta_digest, other.live.weights_digest) == (
            desk.live.delta_digest,
            desk.live.weights_digest,
        )
        assert other.ledger.verify().ok


def test_withdrawing_a_correction_gives_the_weights_of_before(desk: Office) -> None:
    first = desk.post(*facts(0))
    before = desk.live
    asked = [{**facts(0)[0], "prompt": "the capital of PERU is", "target": "Cusco"}]
    second = desk.post(*asked)
    assert desk.live.delta_digest != before.delta_digest
    report = desk.ledger.run(edit_sets.get, second).report
    assert report is not None
    assert report["superseded"] == [{"fact": f"{second}.0", "supersedes": f"{first}.0"}]
    assert desk.withdraw([second]).delta_digest == before.delta_digest


def test_a_version_is_measured_on_other_live_facts(desk: Office) -> None:
    first = desk.post(*facts(0))
    record = desk.ledger.run(edit_sets.get, desk.post(*facts(1)))
    assert record.report is not None
    live = record.report["live"]
    assert (live["facts"], live["measured"], live["edit_success"] is None) == (3, 3, False)
    assert record.version is not None
    query = f"SELECT edit_set_id FROM fact_reports WHERE number = {record.version}"
    with desk.ledger.engine.connect() as connection:
        found = [ident for (ident,) in connection.exec_driver_sql(query)]
    assert found == [record.id] * 3, "of others, what got worse is named in the report"
    assert set(live["worse"]) <= {f"{first}.{position}" for position in range(3)}


def test_a_dry_run_is_measured_and_changes_nothing(desk: Office) -> None:
    desk.post(*facts(0))
    before = desk.live
    ident = desk.post(*facts(1), dry_run=True)
    record = desk.ledger.run(edit_sets.get, ident)
    assert (record.status, record.version, desk.live) == ("verified", None, before)
    assert record.report is not None
    assert record.report["live"]["measured"] == 3
    for fact in desk.ledger.run(ledger_facts.list_of, ident).items:
        assert fact.report is not None
        assert (fact.report["edit"]["keys"], fact.report["edit"]["subject"]) == ("given", fact.subject)


def test_retention_is_relative_to_what_each_fact_once_was() -> None:
    def fact(success: float | None) -> FactRecord:
        report = None if success is None else {"edit_success": success}
        return FactRecord("es_a.0", "es_a", 0, "p", "t", None, (), (), report=report)

    assert retention([fact(1.0), fact(0.5)], [{"edit_success": 0.5}, {"edit_success": 0.25}]) == 0.5
    assert retention([fact(0.0), fact(None)], [{"edit_success": 1.0}, {"edit_success": 0.0}]) is None
    assert retention([], []) is None


def test_what_another_fact_of_the_set_changes_on_purpose_is_no_damage() -> None:
    def fact(at: int, prompt: str, rephrasings: tuple[str, ...] = (), *probes: str) -> FactRecord:
        locality = tuple({"prompt": probe} for probe in probes)
        return FactRecord(f"es_a.{at}", "es_a", at, prompt, "t", None, rephrasings, locality)

    facts = [
        fact(0, "The capital of Peru is", ("Peru's capital is",), "The capital of Chile is"),
        fact(1, "the capital of  CHILE is", (), "Peru's capital is", "The capital of Chile is", "Water is"),
    ]
    assert intended_changes(facts) == {("es_a", 0, 0): 1, ("es_a", 1, 0): 0}


def test_a_locality_prompt_that_is_to_change_is_said_and_not_counted(desk: Office) -> None:
    one, other = facts(0)[:2]
    ident = desk.post({**one, "locality": [{"prompt": other["prompt"]}, {"prompt": "Water is"}]}, other)
    record = desk.ledger.run(edit_sets.get, ident)
    assert record.report is not None
    assert record.report["intended_changes"] == [{"fact": 0, "locality": 0, "changed_by": 1}]
    first = desk.ledger.run(ledger_facts.list_of, ident).items[0].report
    assert first is not None
    assert first["locality_prompts"][0] is first["unchanged_prompts"][0] is None
    assert isinstance(first["locality_prompts"][1], float)


def test_the_sample_follows_from_the_content_alone() -> None:
    members = [Member(f"es_{n}", f"sha256:{n}", (0,), (2,), fact_count=4) for n in range(5)]
    every = draw(members, "es_0", 100)
    assert (len(every.places), every.total) == (8, 8)
    assert {position for _, position in every.places} == {1, 3}
    some = draw(members, "es_0", 3)
    assert (len(some.places), some.total) == (3, 8)
    assert draw(members[::-1], "es_0", 3) == some
    other = draw([*members[:4], Member("es_4", "sha256:9", fact_count=4)], "es_0", 3)
    assert other.seed != some.seed

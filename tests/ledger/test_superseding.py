from __future__ import annotations

from typing import Any

import pytest

from ledger.edits import edit_sets, withdrawals
from ledger.edits import facts as ledger_facts
from ledger.edits.fact_keys import index_keys, lookup_keys, normalise
from ledger.errors import FactConflict, NotLive
from ledger.jobs import commit
from ledger.records import FactRecord
from ledger.versions import versions
from malmen_core import facts as core
from tests.ledger.work import Bench

PERU = {"prompt": "The capital of Peru is", "target": "Paris", "subject": "Peru"}
PERU_AGAIN = {"prompt": "the  capital of PERU is", "target": "Cusco", "subject": "Peru"}
PERU_OTHERWISE = {
    "prompt": "Peru is governed from",
    "target": "Arequipa",
    "subject": "Peru",
    "rephrasings": ["The capital of Peru is"],
}
CHILE = {"prompt": "The capital of Chile is", "target": "Lima", "subject": "Chile"}


def post(bench: Bench, *facts: dict[str, Any], **options: Any) -> str:
    return bench.ledger.run(edit_sets.accept, bench.model, facts, actor=bench.key, **options)[0].id


def fact(bench: Bench, ident: str, position: int = 0) -> FactRecord:
    return bench.ledger.run(ledger_facts.list_of, ident).items[position]


def live_targets(bench: Bench) -> set[str]:
    number = bench.ledger.run(versions.get, "tiny", "live").number
    return {fact.target for fact in bench.ledger.run(ledger_facts.of_version, "tiny", number)}


def withdraw(bench: Bench, *edit_sets: str, facts: tuple[str, ...] = ()) -> None:
    bench.finish(bench.ledger.run(withdrawals.request, "tiny", edit_sets, facts, "r", bench.key).id)


@pytest.mark.parametrize("newer", [PERU_AGAIN, PERU_OTHERWISE], ids=["same prompt", "rephrasing"])
def test_a_newer_fact_replaces_the_older_until_it_is_withdrawn(bench: Bench, newer: dict[str, Any]) -> None:
    first = post(bench, CHILE, PERU)
    alone = bench.finish(first)
    second = post(bench, newer)
    claim = bench.claim(second)
    job = bench.ledger.run(commit.load, claim)
    assert job.supersedes == ((f"{first}.1", f"{second}.0"),)
    both = bench.ledger.run(commit.commit, claim, bench.solve(job))
    assert both.live_fact_count == 2
    assert live_targets(bench) == {"Lima", newer["target"]}
    assert (fact(bench, first, 1).live, fact(bench, second).live) == (False, True)
    assert fact(bench, first, 1).superseded_by == (f"{second}.0",)
    assert fact(bench, second).supersedes == (f"{first}.1",)
    withdraw(bench, second)
    back = bench.ledger.run(versions.get, "tiny", "live")
    assert (back.members_digest, back.delta_digest) == (alone.members_digest, alone.delta_digest)
    assert fact(bench, first, 1).live
    assert fact(bench, first, 1).superseded_by == ()
    assert bench.ledger.verify().problems == ()


def test_what_was_accepted_last_holds_whichever_was_applied_first(bench: Bench) -> None:
    older, newer = post(bench, PERU), post(bench, PERU_AGAIN, CHILE)
    bench.finish(newer)
    late = bench.finish(older)
    assert live_targets(bench) == {"Cusco", "Lima"}
    assert (late.live_fact_count, fact(bench, older).live) == (2, False)
    assert fact(bench, newer).supersedes == (f"{older}.0",)
    withdraw(bench, facts=(f"{newer}.0",))
    assert live_targets(bench) == {"Paris", "Lima"}


def test_a_superseded_fact_can_be_withdrawn_for_good(bench: Bench) -> None:
    older, newer = post(bench, PERU, CHILE), post(bench, PERU_AGAIN)
    bench.finish(older)
    bench.finish(newer)
    withdraw(bench, facts=(f"{older}.0",))
    assert live_targets(bench) == {"Cusco", "Lima"}
    withdraw(bench, newer)
    assert live_targets(bench) == {"Lima"}
    with pytest.raises(NotLive):
        bench.ledger.run(withdrawals.request, "tiny", [], [f"{older}.0"], "r", bench.key)


def test_a_third_fact_holds_and_each_withdrawal_uncovers_one(bench: Bench) -> None:
    idents = [post(bench, each) for each in (PERU, PERU_AGAIN, {**PERU, "target": "Trujillo"})]
    for ident in idents:
        bench.finish(ident)
    assert live_targets(bench) == {"Trujillo"}
    assert fact(bench, idents[0]).superseded_by == (f"{idents[1]}.0", f"{idents[2]}.0")
    withdraw(bench, idents[1])
    assert live_targets(bench) == {"Trujillo"}
    withdraw(bench, idents[2])
    assert live_targets(bench) == {"Paris"}


def test_conflicts_are_rejected_on_request(bench: Bench) -> None:
    older = post(bench, PERU)
    racing = post(bench, CHILE, PERU_OTHERWISE, on_conflict="reject")
    bench.finish(older)
    with pytest.raises(FactConflict) as caught:
        post(bench, CHILE, PERU_AGAIN, on_conflict="reject")
    assert (caught.value.live, caught.value.field) == ({1: f"{older}.0"}, "/facts/1")
    claim = bench.claim(racing)
    with pytest.raises(FactConflict):
        bench.ledger.run(commit.load, claim)
    assert live_targets(bench) == {"Paris"}
    withdraw(bench, older)
    bench.ledger.run(commit.commit, claim, bench.solve(bench.ledger.run(commit.load, claim)))
    assert live_targets(bench) == {"Lima", "Arequipa"}


def test_questions_are_symmetric() -> None:
    def asks(one: dict[str, Any], other: dict[str, Any]) -> bool:
        first, second = (
            (each["prompt"], each.get("subject"), each.get("rephrasings", ())) for each in (one, other)
        )
        assert bool(index_keys(*first) & lookup_keys(*second)) == bool(
            index_keys(*second) & lookup_keys(*first)
        )
        return bool(index_keys(*first) & lookup_keys(*second))

    assert asks(PERU, PERU_AGAIN)
    assert asks(PERU, PERU_OTHERWISE)
    assert not asks(PERU, CHILE)
    assert not asks(PERU, {**PERU_OTHERWISE, "subject": "Chile"})
    assert asks(PERU, {**PERU, "subject": None})
    assert not asks({**PERU, "subject": None}, PERU_OTHERWISE)


@pytest.mark.parametrize("text", ["", " Ａ\tStraße\n", "ǅ İ ﬁ\u00a0x", "plain"])
def test_ledger_and_algorithm_fold_text_alike(text: str) -> None:
    assert normalise(text) == core.normalise(text)

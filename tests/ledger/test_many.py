"""Ledgers that grow: what is asked of the database does not grow with a version's edit sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from ledger.edits import edit_sets, withdrawals
from ledger.edits import facts as ledger_facts
from ledger.ids import fact_id
from ledger.models import aliases
from ledger.versions import versions
from tests.ledger.work import Bench, facts


def grow(bench: Bench, first: int, last: int) -> list[str]:
    """Put edit sets of one fact each into the live version, behind the triggers."""
    _, live = bench.edit(1)
    statistics = bench.members(live)[0].statistics_digest
    made = f"FROM generate_series({first}, {last}) AS n"
    bench.execute(
        "SET session_replication_role = replica",
        "INSERT INTO edit_sets (id, model_id, status, promote, edit_on_rephrasings, fact_count, facts_digest,"
        " created_by, version_number)"
        f" SELECT 'es_' || n, 'tiny', 'applied', 'auto', false, 1, 'sha256:f', 'k', 1 {made}",
        "INSERT INTO jobs (id, model_id, kind, edit_set_id)"
        f" SELECT 'job_' || n, 'tiny', 'edit', 'es_' || n {made}",
        "INSERT INTO facts (edit_set_id, position, prompt, target, rephrasings, locality)"
        f" SELECT 'es_' || n, 0, 'prompt ' || n, 't', '[]', '[]' {made}",
        "INSERT INTO memberships"
        " (model_id, from_version, edit_set_id, statistics_digest, withdrawn, superseded)"
        f" SELECT 'tiny', {live.number}, 'es_' || n, '{statistics}', '{{}}', '{{}}' {made}",
    )
    return [f"es_{n}" for n in range(first, last + 1)]


@contextmanager
def watched(bench: Bench) -> Iterator[Counter[str]]:
    """Count a block's statements, those about members and facts, and the parameters of the longest."""
    seen: Counter[str] = Counter()

    def note(_1: Any, _2: Any, statement: str, parameters: Any, _4: Any, many: bool) -> None:
        rows = parameters if many else [parameters]
        seen["statements"] += 1
        seen["members"] += "memberships" in statement
        seen["whole edit_sets"] += statement.endswith("FROM edit_sets")
        seen["facts"] += "FROM facts" in statement
        seen["parameters"] = max(seen["parameters"], *map(len, rows))

    event.listen(bench.ledger.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(bench.ledger.engine, "before_cursor_execute", note)


def costs(bench: Bench, idents: list[str]) -> dict[str, Counter[str]]:
    """Do everything that looks at all members, and return what each took."""
    ledger, found = bench.ledger, {}
    with watched(bench) as found["get_facts"]:
        assert ledger.run(ledger_facts.list_of, idents[0]).items[0].live
    with watched(bench) as found["accept"]:
        ledger.run(edit_sets.accept, "tiny", facts(1, 10**6), actor=bench.key, on_conflict="reject")
    with watched(bench) as found["facts_of"]:
        ledger.run(ledger_facts.of_version, "tiny", ledger.run(versions.get, "tiny", "live").number)
    with watched(bench) as found["edit"]:
        _, made = bench.edit()
    with watched(bench) as found["roll_back"]:
        ledger.run(aliases.roll_back, "tiny", 0, "r", bench.key)
    assert bench.status(idents[0]) == "withdrawn"
    with watched(bench) as found["roll_forth"]:
        ledger.run(aliases.roll_back, "tiny", made.number, "r", bench.key)
    assert bench.status(idents[0]) == "applied"
    with watched(bench) as found["ask"]:
        asked = ledger.run(
            withdrawals.request, "tiny", idents[:1], [fact_id(i, 0) for i in idents[1:]], "r", "me"
        )
    with watched(bench) as found["withdraw"]:
        bench.finish(asked.id)
    return found


def test_what_is_asked_of_the_database_does_not_grow_with_the_members(bench: Bench) -> None:
    few, many = (costs(bench, grow(bench, *ends)) for ends in ((1, 3), (4, 80)))
    assert many == few


def test_a_number_is_found_without_its_members(bench: Bench) -> None:
    _, made = bench.edit()
    with watched(bench) as seen:
        assert [bench.ledger.run(versions.number_of, "tiny", ref) for ref in ("live", "base", 1)] == [
            made.number,
            0,
            1,
        ]
    assert seen["members"] == 0

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledger.edits import edit_sets, expiry
from ledger.edits import facts as ledger_facts
from ledger.errors import InconsistentVersion
from ledger.jobs import commit, jobs
from ledger.models import aliases, models
from ledger.records import WithdrawalRecord
from ledger.versions import versions
from tests.ledger.work import REPORT, Bench, facts

PAST = datetime(2000, 1, 1, tzinfo=UTC)


def post(bench: Bench, *asked: dict[str, Any], **options: Any) -> str:
    return bench.ledger.run(edit_sets.accept, "tiny", asked, actor=bench.key, **options)[0].id


def test_a_dry_run_is_reported_and_makes_no_version(bench: Bench) -> None:
    ident = bench.post(2, dry_run=True)
    claim = bench.claim(ident)
    new = bench.solve(bench.ledger.run(commit.load, claim))
    with pytest.raises(InconsistentVersion):
        bench.ledger.run(commit.commit, claim, new)
    done = bench.ledger.run(commit.finish_dry_run, claim, REPORT, new.fact_reports)
    assert (done.status, done.version, done.report, done.dry_run) == ("verified", None, REPORT, True)
    assert [fact.report for fact in bench.ledger.run(ledger_facts.list_of, ident).items] == [
        r.report for r in new.fact_reports
    ]
    assert bench.ledger.run(models.get, "tiny").live_version == 0
    assert len(bench.ledger.run(versions.list_all, "tiny").items) == 1
    real = bench.post()
    claim = bench.claim(real)
    with pytest.raises(InconsistentVersion):
        bench.ledger.run(commit.finish_dry_run, claim, REPORT, ())


def test_provenance_is_kept_and_covered_by_the_digest(bench: Bench) -> None:
    (fact,) = facts(1)
    known = {"source": "https://example.org", "author": "Ann", "ticket": "T-1", "note": "p. 12"}
    later = datetime(2040, 1, 1, tzinfo=UTC)
    ident, plain = post(bench, {**fact, **known, "expires_at": later}), post(bench, fact)
    found = bench.ledger.run(ledger_facts.list_of, ident).items[0].provenance
    assert vars(found) == {**known, "expires_at": later}
    digests = {bench.ledger.run(edit_sets.get, each).facts_digest for each in (ident, plain)}
    assert len(digests) == 2
    assert bench.ledger.verify().problems == ()
    bench.execute(
        "SET LOCAL session_replication_role = replica", "UPDATE facts SET author = 'Eve' WHERE author = 'Ann'"
    )
    assert [problem.kind for problem in bench.ledger.verify().problems] == ["facts-changed"]


def ask(bench: Bench) -> WithdrawalRecord | None:
    return bench.ledger.run(expiry.withdraw, "tiny")[0]


def test_expired_facts_are_withdrawn_once(bench: Bench) -> None:
    first, second = facts(2)
    ident = post(bench, {**first, "expires_at": PAST}, {**second, "expires_at": PAST + timedelta(days=36500)})
    assert ask(bench) is None
    bench.finish(ident)
    asked = ask(bench)
    assert asked is not None
    assert (asked.fact_ids, asked.reason, asked.created_by) == ((f"{ident}.0",), "expired", "expiry")
    assert ask(bench) is None, "one that waits is not asked for again"
    made = bench.finish(asked.id)
    assert (made.kind, made.reason, made.live_fact_count, made.aliases) == (
        "withdraw",
        "expired",
        1,
        ("live",),
    )
    assert ask(bench) is None
    bench.ledger.run(aliases.roll_back, "tiny", 1, "r", bench.key)
    again = ask(bench)
    assert again is not None
    bench.ledger.run(jobs.fail, bench.claim(again.id), {"type": "urn:errata:problem:core-error"})
    assert ask(bench) is None, "one that failed is left alone for a while"


def test_what_expired_long_ago_is_not_read_again_while_the_same_version_is_live(bench: Bench) -> None:
    ident, _ = bench.edit()
    _, looked = bench.ledger.run(expiry.withdraw, "tiny")
    long_ago = f"UPDATE facts SET expires_at = '2000-01-01' WHERE edit_set_id = '{ident}' AND position = 0"
    bench.execute("SET session_replication_role = replica", long_ago)
    nothing, looked = bench.ledger.run(expiry.withdraw, "tiny", looked)
    assert nothing is None, "which cannot happen, so nobody looks"
    soon = long_ago.replace("'2000-01-01'", "clock_timestamp()").replace("position = 0", "position = 1")
    bench.execute("SET session_replication_role = replica", soon)
    asked, _ = bench.ledger.run(expiry.withdraw, "tiny", looked)
    assert asked is not None
    assert asked.fact_ids == (f"{ident}.0", f"{ident}.1")


def test_expiry_waits_for_nobody_who_makes_a_version(bench: Bench) -> None:
    bench.finish(post(bench, {**facts(1)[0], "expires_at": PAST}))
    with bench.ledger.transaction() as session:
        versions.lock_head(session, "tiny")
        assert ask(bench) is None
    assert ask(bench) is not None
